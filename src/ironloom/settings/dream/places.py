"""Where in the user's source a value was given. Looks at the calling frames; reads no file."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import sys
from dataclasses import dataclass

_OWN = (str(pathlib.Path(__file__).parent), dataclasses.__file__, "<string>")  # generated constructors are compiled from a string


@dataclass(frozen=True)
class Place:
    """The extent of an expression in a source file.

    Attributes:
        file: Name of the file as it was compiled.
        line: First line, from 1.
        column: First column in bytes, from 0, as in ``ast``.
        end_line: Last line.
        end_column: Column behind its end.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int


def caller() -> Place | None:
    """The call or assignment in the user's code that is running now; None if its source is unknown."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_OWN):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    positions = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if positions is None:
        return None
    line, end_line, column, end_column = positions
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return Place(frame.f_code.co_filename, line, column, end_line, end_column)


def is_generated(depth: int = 1) -> bool:
    """Whether the code ``depth`` frames above the caller is a constructor that ``dataclass`` wrote."""
    return sys._getframe(depth + 1).f_code.co_filename == "<string>"
