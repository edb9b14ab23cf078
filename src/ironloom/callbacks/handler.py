"""Holds the callbacks of a trainer and calls those that handle an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ironloom.callbacks.base import EVENTS
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments

Handler = Callable[..., TrainerControl | None]


class CallbackHandler:
    """An ordered list of callbacks with one table of handlers for each event.

    An event that no callback handles costs one look-up. Callbacks need no common base class.
    """

    def __init__(self, callbacks: Iterable[Any] = ()):
        self.callbacks: list[Any] = []
        self._handlers: dict[str, list[Handler]] = {event: [] for event in EVENTS}
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: Any) -> None:
        """Append a callback; a class is instantiated."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)
        self._rebuild()

    def pop(self, callback: Any) -> Any | None:
        """Remove and return the first callback that is ``callback`` or an instance of that class."""
        for index, present in enumerate(self.callbacks):
            if present is callback or (isinstance(callback, type) and isinstance(present, callback)):
                del self.callbacks[index]
                self._rebuild()
                return present
        return None

    def handles(self, event: str) -> bool:
        """Whether any callback handles an event."""
        return bool(self._handlers[event])

    def call(self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Call every handler of an event in order; returns the control that holds afterwards."""
        for handler in tuple(self._handlers[event]):
            returned = handler(args, state, control, **kwargs)
            if returned is not None and returned is not control:
                control = _checked(returned, handler)
        return control

    def close(self) -> None:
        """Training ends by an error: callbacks with a ``close()`` give back what they hold."""
        for callback in self.callbacks:
            close = getattr(callback, "close", None)
            if callable(close):
                close()

    def state_dict(self) -> dict[str, Any]:
        """States of the callbacks that have one, by class name and place among that class."""
        return {key: state_of(callback) for key, callback in self._stateful()}

    def load_state_dict(self, states: dict[str, Any]) -> list[str]:
        """Restore states; returns the names of saved ones that no callback here takes."""
        left = dict(states)
        for key, callback in self._stateful():
            if key in left:
                restore(callback, left.pop(key))
        return list(left)

    def _stateful(self) -> Iterable[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for callback in self.callbacks:
            if not (_is_stateful(callback) or _is_exportable(callback)):
                continue
            name = type(callback).__qualname__
            seen[name] = seen.get(name, -1) + 1
            yield f"{name}:{seen[name]}", callback

    def _rebuild(self) -> None:
        for event in EVENTS:
            self._handlers[event] = [getattr(callback, event) for callback in self.callbacks if _overrides(callback, event)]


def _checked(returned: Any, handler: Handler) -> TrainerControl:
    """What a handler returned, if it is a control (ours or that of transformers, which has the same flags)."""
    if not vars(TrainerControl()).keys() <= getattr(returned, "__dict__", {}).keys():
        raise TypeError(f"{getattr(handler, '__qualname__', handler)} returned {returned!r}: a callback returns None or a TrainerControl")
    control: TrainerControl = returned
    return control


def _overrides(callback: Any, event: str) -> bool:
    """Whether a callback does anything on an event: the empty methods of base classes do not count."""
    if event in vars(callback):
        return True
    owner = next((cls for cls in type(callback).__mro__ if event in vars(cls)), None)
    return owner is not None and owner.__name__ != "TrainerCallback"


def _is_stateful(callback: Any) -> bool:
    return callable(getattr(callback, "state_dict", None)) and callable(getattr(callback, "load_state_dict", None))


def _is_exportable(callback: Any) -> bool:
    """transformers' own protocol: ``state()`` gives {"args": ..., "attributes": ...}."""
    return callable(getattr(callback, "state", None)) and callable(getattr(type(callback), "from_state", None))


def state_of(callback: Any) -> Any:
    """The state that a checkpoint keeps of a callback."""
    return callback.state_dict() if _is_stateful(callback) else callback.state()["attributes"]


def restore(callback: Any, state: Any) -> None:
    """Give a callback back what :func:`state_of` took."""
    if _is_stateful(callback):
        callback.load_state_dict(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)
