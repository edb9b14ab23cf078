"""Errors as the watch tells them: whose they are, what they say, which exit code they stand for."""

from __future__ import annotations

import re

from ironloom.errors import IronloomError, RankError

# Lines of an error that are told.
_LINES = 10
# Errors that a rank gets because another one failed.
_OF_OTHERS = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|connectFullMesh|broken pipe|socket (error|timeout)|ProcessGroup|TCPStore",
    re.IGNORECASE,
)


def is_of_others(error: BaseException) -> bool:
    """Whether a rank got this error because another one failed or left."""
    from torch.distributed import DistError

    if isinstance(error, RankError) and error.__cause__ is not None:
        return is_of_others(error.__cause__)
    if isinstance(error, IronloomError):
        return False
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and _OF_OTHERS.search(str(error)) is not None)


def text_of(error: BaseException) -> str:
    """What went wrong: all lines of an error that is made for users, the first one of another."""
    if isinstance(error, IronloomError):
        return "\n".join([*str(error).splitlines(), *getattr(error, "__notes__", ())][:_LINES])
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}"


def code_of(error: BaseException) -> int:
    """The exit code that the error stands for."""
    return error.exit_code if isinstance(error, IronloomError) and error.exit_code > 1 else RankError.exit_code
