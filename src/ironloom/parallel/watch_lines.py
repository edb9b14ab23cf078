"""Source lines: where a thread stands, where an error was raised, who called. Knows which code is not the user's."""

from __future__ import annotations

import linecache
import sys
import sysconfig
import traceback
from types import FrameType
from typing import Any

_FOREIGN = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def caller(depth: int) -> str:
    """The line that called, ``depth`` calls up."""
    frame = sys._getframe(depth)
    return _line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def standing_at(thread: int) -> dict[str, Any]:
    """Where a thread of this process is: the innermost line that is not a library's, and whether it waits inside ``torch.distributed``."""
    frame = sys._current_frames().get(thread)
    innermost = frame
    while innermost is not None and innermost.f_code.co_filename.endswith(("torch/_ops.py", "contextlib.py", "_contextlib.py")):
        innermost = innermost.f_back
    inside = innermost is not None and "torch/distributed/" in innermost.f_code.co_filename
    return {"line": _own(frame), "inside": inside}


def line_of_error(error: BaseException) -> str:
    """The innermost line of an error's trace that is not a library's."""
    frames = [(entry.filename, entry.lineno or 0, entry.name) for entry in traceback.extract_tb(error.__traceback__)]
    own = [entry for entry in frames if not entry[0].startswith(_FOREIGN)]
    return _line(*(own or frames)[-1]) if frames else ""


def source(line: str) -> str:
    """The text of a line ``file:number in function``, as far as the file is here."""
    place = line.partition(" in ")[0]
    file, _, number = place.rpartition(":")
    return linecache.getline(file, int(number)).strip() if number.isdecimal() else ""


def _own(frame: FrameType | None) -> str:
    first = frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*_FOREIGN, "<")):
            return _line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return "" if first is None else _line(first.f_code.co_filename, first.f_lineno, first.f_code.co_name)


def _line(file: str, number: int, function: str) -> str:
    return f"{file}:{number} in {function}"
