"""Where a rank is, in a page of shared memory: written at every phase, readable on its machine even after it was killed."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

_SIZE = 1024
_HEAD = struct.Struct("<qqq")
_TEXT = _SIZE - _HEAD.size


def memory_file(token: str, rank: int) -> Path:
    """The page of a rank; in memory where the system has a folder for that."""
    shared = Path("/dev/shm")
    return (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"ironloom-{token}-{rank}"


class Memory:
    """The page of this rank.

    Args:
        path: See :func:`memory_file`.
    """

    def __init__(self, path: Path):
        self._path = path
        self._texts: dict[Any, bytes] = {}
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, _SIZE)
        self._page = mmap.mmap(descriptor, _SIZE)
        os.close(descriptor)

    def write(self, name: str, step: int, count: int) -> None:
        """Note a phase, and the line two calls up."""
        frame = sys._getframe(2)
        code = frame.f_code
        text = self._texts.get((name, code))
        if text is None:
            text = f"{name}\n{code.co_filename}\n{code.co_name}".encode()[:_TEXT].ljust(_TEXT, b"\0")
            self._texts[name, code] = text
        self._page[:] = _HEAD.pack(step, count, frame.f_lineno) + text

    def close(self) -> None:
        """Give the page up."""
        self._path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any] | None:
    """What a rank of this machine noted last; None if it has not, or has ended."""
    try:
        page = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(page) < _SIZE:
        return None
    step, count, number = _HEAD.unpack_from(page)
    name, file, function, *_ = [*page[_HEAD.size :].rstrip(b"\0").decode(errors="replace").split("\n"), "", ""]
    return {"phase": name, "step": step, "count": count, "line": f"{file}:{number} in {function}"} if name else None
