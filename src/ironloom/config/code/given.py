"""What a configuration object was given, and where: in the file, in a class of the user's, or on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from ironloom.config.overrides import ORIGIN
from ironloom.errors import Origin, Problem
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.source import Sources, Step

DEFAULT = Origin("default", route="default")


class Given:
    """A configuration with the place of everything in it.

    Args:
        config: The configuration.
        file: The file it comes from, as it is called in messages.
        path: The same file by its absolute name.
        sources: Parsed source files.

    Attributes:
        overridden: Paths that the command line set.
        moved: Fields of a user's own that set another one, by the path of that.
        adopted: Fields whose value was found elsewhere.
        shape: Fields of a user's own that say the shape of the built-in decoder, by its keys.
    """

    def __init__(self, config: BaseConfig, file: str, path: str, sources: Sources):
        self.config = config
        self.file = file
        self.path = path
        self.sources = sources
        self.overridden: set[str] = set()
        self.moved: dict[str, str] = {}
        self.adopted: set[str] = set()
        self.shape: dict[str, str] = {}

    def value(self, path: str) -> Any:
        """The value of a dotted path of fields."""
        value: Any = self.config
        for name in path.split("."):
            value = getattr(value, name)
        return value

    def is_given(self, path: str) -> bool:
        """Whether anybody but this package set the value at ``path``."""
        return self.origin(path) != DEFAULT

    def origin(self, path: str, *inner: Step) -> Origin:
        """Where the value at ``path``, or what ``inner`` leads to inside it, comes from."""
        parts = path.split(".")
        if any(".".join(parts[:end]) in self.overridden for end in range(1, len(parts) + 1)):
            return ORIGIN
        if path in self.moved:
            return self.origin(self.moved[path])
        front, _, name = path.rpartition(".")
        holder: Any = self.value(front) if front else self.config
        if not isinstance(holder, BaseConfig):
            is_inside = any(each.startswith(f"{path}.") for each in self.overridden)
            return ORIGIN if is_inside else self.origin(front, name, *inner)
        if path in self.adopted:
            return DEFAULT
        place = holder.places().get(name)
        if place is not None:
            return self.sources.origin(place, name, *inner, other_names=type(holder).OTHER_NAMES)
        owner = next((cls for cls in type(holder).__mro__ if name in inspect.get_annotations(cls)), type(holder))
        if owner.__module__.startswith("ironloom."):
            # What a constructor of the user's sets has no place of its own.
            return DEFAULT if _is_default(holder, name) or isinstance(getattr(holder, name), BaseConfig) else Origin(self.file)
        file = getattr(sys.modules.get(owner.__module__), "__file__", None)
        declared = self.sources.field(file, owner.__qualname__, name) if file else None
        return declared or Origin(self.file)

    @property
    def evaluates(self) -> bool:
        """Whether the run is validated: there is data to do it on, and it is not switched off."""
        has_data = self.value("train_dataset") is None or self.value("eval_dataset") is not None
        return has_data and self.value("training_parameters.val_frequency") != 0

    def adopt(self, name: str, value: Any) -> None:
        """Set a field without a place of its own: the places of what is inside it hold."""
        object.__setattr__(self.config, name, value)
        self.adopted.add(name)

    def positions(self, path: str, names: list[str]) -> list[int] | None:
        """Where in the list at ``path`` the items with these class names are written; None if that cannot be seen."""
        place = self.config.places().get(path)
        written = iter(enumerate(self.sources.items(place, path) if place is not None else []))
        found = [next((index for index, name in written if name == wanted), None) for wanted in names]
        return None if None in found else [index for index in found if index is not None]

    def problem(self, path: str, message: str, hint: str = "") -> Problem:
        """A problem of the value at ``path``."""
        return Problem(message, path, self.origin(path), hint)


def _is_default(holder: Any, name: str) -> bool:
    field = next((field for field in dataclasses.fields(holder) if field.name == name), None)
    if field is None:
        return False
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(getattr(holder, name) == default)
