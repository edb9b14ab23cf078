"""Values of the groups with the places they come from, as the assembler takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ironloom.config import secrets
from ironloom.config.graph import Path, Step, dotted
from ironloom.config.groups.gathered import DATA_FILE, DEFAULT, Gathered
from ironloom.config.groups.rules import Groups
from ironloom.config.sourced import Sourced
from ironloom.settings.base import Settings


class Keys:
    """Values of the groups with their origins, by ``group.key``."""

    def __init__(self, groups: Groups, found: Gathered):
        self._groups = groups
        self._found = found

    def __call__(self, path: str) -> Sourced:
        """The value of ``group.key``."""
        value = self._value(path)
        return self._deep(value.to_dict() if isinstance(value, Settings) else value, tuple(path.split(".")))

    def _deep(self, value: Any, path: Path) -> Sourced:
        """A value with its origin, and likewise everything inside it."""
        origin = self._found.origin(path)
        if path in self._found.secrets:
            text, typed = self._found.secrets[path]
            inside: Any = secrets.reference(text, typed=typed, origin=origin)
        elif isinstance(value, dict):
            inside = {name: self._deep(child, (*path, name)) for name, child in value.items()}
        elif isinstance(value, list):
            inside = [self._deep(child, (*path, index)) for index, child in enumerate(value)]
        else:
            inside = value
        return Sourced(inside, origin, self._found.steps(path), (shown(path),))

    def derived(self, value: Any, *paths: str) -> Sourced:
        """A value that follows from keys; its origin is that of the first that was given.

        What each of the keys says is what "stood there before".
        """
        places: list[Path] = [tuple(path.split(".")) for path in paths]
        origins = [self._found.origin(place) for place in places]
        origin = next((origin for origin in origins if origin != DEFAULT), DEFAULT)
        said = [Step(f"{path} = {self._value(path)!r}", origin) for path, origin in zip(paths, origins, strict=True)]
        route = "default" if origin == DEFAULT else "derived"
        return Sourced(value, dataclasses.replace(origin, route=route), said, tuple(map(shown, places)))

    def settled(self, value: Any, path: str, *others: str) -> Sourced:
        """The value of a key that was given, or else one that is derived from it and others."""
        is_own = self._found.given(*path.split(".")) and self._value(path) == value
        return self(path) if is_own else self.derived(value, path, *others)

    def _value(self, path: str) -> Any:
        group, _, key = path.partition(".")
        return getattr(getattr(self._groups, group), key)


def shown(path: Path) -> str:
    """A key as the user writes it."""
    return dotted(("data", *path[1:]) if path[0] == DATA_FILE else path)
