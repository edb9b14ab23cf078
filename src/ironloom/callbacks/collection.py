"""A list of callbacks as configurations in code write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self, SupportsIndex

from ironloom.callbacks.base import EVENTS
from ironloom.errors import ConfigError, Problem


class CallbackCollection(list[Any]):
    """Callbacks in order; entries that are None are left out, so that an entry may be conditional.

    Several of one class may stand beside each other.

    Args:
        callbacks: Instances or classes, and None.

    Raises:
        ConfigError: For entries that handle no event, all of them together.
    """

    def __init__(self, callbacks: Iterable[Any] = ()):
        super().__init__(_checked(callbacks))

    def append(self, callback: Any) -> None:
        """Add a callback at the end; None adds nothing."""
        super().extend(_checked([callback]))

    def extend(self, callbacks: Iterable[Any]) -> None:
        """Add several."""
        super().extend(_checked(callbacks))

    def insert(self, index: SupportsIndex, callback: Any) -> None:
        """Add a callback before ``index``; None adds nothing."""
        for checked in _checked([callback]):
            super().insert(index, checked)

    def filter(self, keep: Callable[[Any], Any] | None = None) -> Self:
        """The callbacks for which ``keep`` is true, as Python's ``filter``; None keeps every one."""
        return type(self)(filter(keep, self))

    def __add__(self, other: Iterable[Any]) -> Self:
        return type(self)([*self, *other])

    def __iadd__(self, other: Iterable[Any]) -> Self:
        self.extend(other)
        return self


def _checked(callbacks: Iterable[Any]) -> list[Any]:
    present = [(index, callback) for index, callback in enumerate(callbacks) if callback is not None]
    problems = [
        Problem(f"{callback!r} is no callback: it has none of the methods {EVENTS[0]}, {EVENTS[1]} ...", path=f"callbacks.{index}")
        for index, callback in present
        if not any(callable(getattr(callback, event, None)) for event in EVENTS)
    ]
    if problems:
        raise ConfigError(problems)
    return [callback for _, callback in present]
