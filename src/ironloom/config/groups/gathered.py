"""What a grouped configuration gives: plain values by group, where each stands, and what stood there before."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.config.graph import Path, Step
from ironloom.config.source import Reader
from ironloom.config.validate import nearest_origin
from ironloom.errors import Origin, Problem
from ironloom.settings.base import Settings
from ironloom.settings.groups import GROUPS, DataFile

DEFAULT = Origin("default", route="default")
DATA_FILE = "data_file"  # holds the keys of a data file that the group data does not have
SCHEMAS: dict[str, type[Settings]] = {**GROUPS, DATA_FILE: DataFile}


@dataclass
class Layer:
    """One source of keys for a group: a preset, the file itself. Paths begin below the group."""

    values: dict[Any, Any]
    origins: dict[Path, Origin] = field(default_factory=dict)
    keys: dict[Path, Origin] = field(default_factory=dict)
    secrets: dict[Path, tuple[str, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[Any, Any], reader: Reader, front: Path = ()) -> Layer:
        """The layer of what a reader found at ``front``."""
        return cls(values, _under(reader.values, front), _under(reader.keys, front), _under(reader.secrets, front))

    def rename(self, old: str, new: str) -> None:
        """Give a key another name."""
        self.values[new] = self.values.pop(old)
        for table in self.tables():
            for path in [path for path in table if path[:1] == (old,)]:
                table[(new, *path[1:])] = table.pop(path)

    def tables(self) -> tuple[dict[Path, Any], ...]:
        """Everything that is noted of paths."""
        return self.origins, self.keys, self.secrets


@dataclass
class Gathered:
    """Plain values by group as they were given, before any check of their types.

    Attributes:
        values: For each group its keys and values.
        origins: Where each value stands.
        keys: Where each key stands.
        secrets: For each value that holds a secret the text that refers to it, and whether that is a YAML scalar.
        earlier: What stood at a path before, oldest first.
        added: Dotted paths that the command line set with ``+``.
        problems: What is wrong so far.
    """

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    keys: dict[Path, Origin] = field(default_factory=dict)
    secrets: dict[Path, tuple[str, bool]] = field(default_factory=dict)
    earlier: dict[Path, list[Step]] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def given(self, *path: str | int) -> bool:
        """Whether the user set the value at ``path``."""
        return _reach(self.values, path)[0]

    def value(self, path: Path) -> Any:
        """The value at ``path`` as it was given; None if it was not."""
        return _reach(self.values, path)[1]

    def origin(self, path: Path) -> Origin:
        """Where the value at ``path`` came from: a place, or ``default``."""
        place = nearest_origin(path, self.origins) if self.given(*path) else None
        return place or DEFAULT

    def steps(self, path: Path) -> list[Step]:
        """What stood at ``path`` before what stands there now, oldest first: the default, then what was overridden."""
        if not self.given(*path):
            return []
        known, default = _reach(_defaults(path[0]), path[1:])
        steps = [Step(default, DEFAULT)] if known else []
        for end in range(1, len(path) + 1):
            for step in self.earlier.get(path[:end], ()):
                there, value = _reach(step.value, path[end:])
                if there:
                    steps.append(Step(value, step.origin))
        return steps

    def merge(self, group: str, layer: Layer) -> None:
        """Put a layer over what is there: mappings key by key, anything else as a whole."""
        self._merge(self.values.setdefault(group, {}), layer.values, (group,), layer)

    def _merge(self, holder: dict[Any, Any], values: Mapping[Any, Any], path: Path, layer: Layer) -> None:
        for key, value in values.items():
            place = (*path, key)
            if isinstance(holder.get(key), dict) and isinstance(value, dict):
                self._note(place, layer, only=True)
                self._merge(holder[key], value, place, layer)
                continue
            self.replace(place)
            holder[key] = _copied(value)
            self._note(place, layer)

    def replace(self, place: Path) -> None:
        """Remember what stands at ``place``, which something else is going to take, and forget its origins."""
        if self.given(*place):
            step = Step(self.shown(place), self.origin(place))
            self.earlier.setdefault(place, []).append(step)
        for table in self.tables():
            for path in [path for path in table if path[: len(place)] == place]:
                del table[path]

    def shown(self, place: Path) -> Any:
        """The value at ``place`` with references in place of secrets."""

        def shown(value: Any, path: Path) -> Any:
            if path in self.secrets:
                return self.secrets[path][0]
            if isinstance(value, dict):
                return {key: shown(child, (*path, key)) for key, child in value.items()}
            if isinstance(value, list):
                return [shown(child, (*path, index)) for index, child in enumerate(value)]
            return value

        return shown(_reach(self.values, place)[1], place)

    def tables(self) -> tuple[dict[Path, Any], ...]:
        """Everything that is noted of paths."""
        return self.origins, self.keys, self.secrets

    def _note(self, place: Path, layer: Layer, only: bool = False) -> None:
        """Take the places of a value, and with ``only`` not of what is inside it, from a layer."""
        inner = place[1:]
        for mine, theirs in zip(self.tables(), layer.tables(), strict=True):
            for path, value in theirs.items():
                if path == inner or (not only and path[: len(inner)] == inner):
                    mine[(place[0], *path)] = value


def _under(table: Mapping[Path, Any], front: Path) -> dict[Path, Any]:
    return {path[len(front) :]: value for path, value in table.items() if path[: len(front)] == front}


def _reach(holder: Any, path: Path) -> tuple[bool, Any]:
    """Whether there is something at ``path`` in plain data, and what."""
    for key in path:
        known = range(len(holder)) if isinstance(holder, list) else holder if isinstance(holder, dict) else ()
        if key not in known:
            return False, None
        holder = holder[key]
    return True, holder


@functools.cache
def _defaults(group: Any) -> dict[str, Any]:
    return SCHEMAS[group]().to_dict() if group in SCHEMAS else {}


def _copied(value: Any) -> Any:
    """Plain data that nobody else holds."""
    if isinstance(value, dict):
        return {key: _copied(child) for key, child in value.items()}
    return [_copied(child) for child in value] if isinstance(value, list) else value
