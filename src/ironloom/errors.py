"""The kinds of failure a user can cause or meet, and the exit code of each.

Every error names what happened, where, and what to change. The command line prints the message
alone for these classes; anything else is a fault of the program and keeps its stack trace.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """The place a value came from.

    Attributes:
        source: A file name, ``"command line"``, ``"environment"`` or ``"default"``.
        line: Line in the file, from 1; None where a source has no lines.
        column: Column in the line, from 1; None likewise.
        route: How the value got there: ``default``, ``preset``, ``file``, ``override`` ...
    """

    source: str
    line: int | None = None
    column: int | None = None
    route: str = "file"

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        message: What was expected and what was found.
        path: Dotted path of the key in the configuration, ``""`` for the whole.
        origin: Where it stands; None when it was given in Python.
        hint: What to do about it, or ``""``.
    """

    message: str
    path: str = ""
    origin: Origin | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.origin}: " if self.origin else ""
        what = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{what}{self.message}{hint}"


class IronloomError(Exception):
    """Base of every error that is reported without a stack trace."""

    exit_code = 1


class ConfigError(IronloomError, ValueError):
    """The configuration is wrong. Carries all problems that were found, not only the first."""

    exit_code = 2

    def __init__(self, problems: str | Problem | list[Problem]):
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(IronloomError, ValueError):
    """The data cannot be used: unreadable, empty, of the wrong shape, or not finite."""

    exit_code = 3


class NonFiniteError(DataError):
    """A loss or gradient is infinite or not a number. Names the step that produced it."""


class ResourceError(IronloomError, RuntimeError):
    """The machine cannot do it: memory, disk, a folder that another run holds."""

    exit_code = 4


class RankError(IronloomError, RuntimeError):
    """A process of a distributed run failed or stopped answering."""

    exit_code = 5


class CheckpointError(DataError):
    """A checkpoint is missing parts, damaged, or does not fit the model."""


class Interrupted(KeyboardInterrupt):
    """Training stopped in order after SIGINT or SIGTERM: the step was finished and saved.

    Attributes:
        signum: The signal that asked for it; the exit code is ``128 + signum``.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


def can_travel(error: Exception) -> bool:
    """Whether another process can have an error as it is; its class may break on the way out or in."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True
