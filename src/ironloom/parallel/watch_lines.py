"""Source lines: where a thread stands, where an error was raised, who called. Knows which code is not the user's."""

from __future__ import annotations

import itertools
import linecache
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

# Installed, this package stands among the libraries, and its lines tell more than those.
_HERE = str(Path(__file__).parents[1]) + "/"
_FOREIGN = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")})
# What a handle of a collective is waited for with; it leaves no frame of its own.
_WAIT = re.compile(r"\bwait\(\)$")


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
    inside = innermost is not None and ("torch/distributed/" in innermost.f_code.co_filename or _waits(innermost))
    return {"line": _own(frame), "inside": inside}


def _waits(frame: FrameType) -> bool:
    """Whether what runs at this moment is a call of ``something.wait()``."""
    number, end, _, column = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    if number is None or number != end or column is None:
        return False
    line = linecache.getline(frame.f_code.co_filename, number).encode()
    return _WAIT.search(line[:column].decode(errors="replace")) is not None


def line_of_error(error: BaseException) -> str:
    """Where an error, or what it was raised from, began: the innermost line of what this package called of the user's, else its own."""
    frames, found = [], error
    while found is not None:
        frames += [(entry.filename, entry.lineno or 0, entry.name) for entry in traceback.extract_tb(found.__traceback__)]
        found = found.__cause__  # type: ignore[assignment]
    own = [entry for entry in frames if not _is_foreign(entry[0])]
    entered = next((number for number, entry in enumerate(own) if entry[0].startswith(_HERE)), 0)
    called = [entry for entry in own[entered:] if not entry[0].startswith(_HERE)]
    return _line(*(called or own or frames)[-1]) if frames else ""


def source(line: str) -> str:
    """The text of a line ``file:number in function``, as far as the file is here."""
    place = line.partition(" in ")[0]
    file, _, number = place.rpartition(":")
    return linecache.getline(file, int(number)).strip() if number.isdecimal() else ""


def _own(frame: FrameType | None) -> str:
    first = frame
    while frame is not None:
        if not _is_foreign(frame.f_code.co_filename):
            return _line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return "" if first is None else _line(first.f_code.co_filename, first.f_lineno, first.f_code.co_name)


def _is_foreign(file: str) -> bool:
    return (file.startswith(_FOREIGN) and not file.startswith(_HERE)) or file.startswith("<")


def _line(file: str, number: int, function: str) -> str:
    return f"{file}:{number} in {function}"
