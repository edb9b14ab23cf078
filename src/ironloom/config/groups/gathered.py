"""From a grouped file, its presets and overrides to plain values by group, with the place of each."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from ironloom.config import overrides as command_line
from ironloom.config import scalars, source
from ironloom.config.graph import Path, dotted
from ironloom.config.overrides import Override
from ironloom.config.validate import below, nearest_origin
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import field_names, nearest
from ironloom.settings.groups import GROUPS

LIBRARY = pathlib.Path(__file__).parents[2] / "library"


@dataclass
class Gathered:
    """Plain values by group as the user gave them, before any check of their types.

    Attributes:
        values: For each group its keys and values.
        origins: Where each value stands.
        keys: Where each key stands.
        problems: What is wrong so far.
    """

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    keys: dict[Path, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def given(self, *path: str | int) -> bool:
        """Whether the user set the value at ``path``."""
        holder: Any = self.values
        for key in path:
            known = range(len(holder)) if isinstance(holder, list) else holder if isinstance(holder, dict) else ()
            if key not in known:
                return False
            holder = holder[key]
        return True

    def origin(self, path: Path) -> Origin:
        """Where the value at ``path`` came from: a place, or ``default``."""
        place = nearest_origin(path, self.origins) if self.given(*path) else None
        return place or Origin("default", route="default")


def gather(path: str | pathlib.Path, text: str, settings: Iterable[str]) -> Gathered:
    """Read a grouped file and everything it names. Problems are collected, not raised.

    Raises:
        ConfigError: Only if the file is not YAML.
    """
    found = Gathered()
    reader = source.Reader(str(path))
    root = _mapping_node(source.compose(text, str(path)))
    raw = {key: reader.plain(node, (key,)) for key, node in reader.items(root, ())}
    _take(found, reader)
    overrides, wrong = command_line.parse(settings)
    found.problems += wrong
    later = []
    for override in overrides:
        if len(override.path) == 1 and override.path[0] in GROUPS:
            raw[str(override.path[0])] = override.value
            _place(found, override)
        else:
            later.append(override)
    for group, value in raw.items():
        if group not in GROUPS:
            found.problems.append(unknown_group(group, found.keys.get((group,))))
            continue
        found.values[group] = _group(found, pathlib.Path(path).parent, group, value)
    for override in later:
        _override(found, override)
    return found


def _mapping_node(node: yaml.Node | None) -> yaml.MappingNode:
    return node if isinstance(node, yaml.MappingNode) else yaml.MappingNode(scalars.MAP, [])


def _take(found: Gathered, reader: source.Reader, group: str = "") -> None:
    """Add what a reader noted, below ``group`` if given."""
    front: Path = (group,) if group else ()
    found.origins.update({(*front, *path): origin for path, origin in reader.values.items() if path or front})
    found.keys.update({(*front, *path): origin for path, origin in reader.keys.items()})
    found.problems += [below(group, problem) if group else problem for problem in reader.problems]


def _group(found: Gathered, folder: pathlib.Path, group: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return _preset(found, folder, group, value)
    message = f"expected a mapping of keys or the name of a preset, found {value!r}"
    found.problems.append(Problem(message, group, found.origins.get((group,))))
    return {}


def _preset(found: Gathered, folder: pathlib.Path, group: str, name: str) -> dict[str, Any]:
    """The values of a named group; a name that leads nowhere is a problem."""
    where = found.origins.get((group,))
    if not re.fullmatch(r"\w[\w.\-]*", name):
        found.problems.append(Problem(f"{name!r} is not the name of a preset", group, where, "a name, not a path"))
        return {}
    file = next((file for file in _places(folder, group, name) if file.is_file()), None)
    if file is None:
        known = sorted({entry.stem for place in _places(folder, group, name) for entry in place.parent.glob("*.yaml")})
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"presets: {', '.join(known) or 'none'}"
        found.problems.append(Problem(f"there is no preset {name!r}", group, where, hint))
        return {}
    try:
        node = source.compose(source.read_text(file), str(file))
    except ConfigError as error:
        found.problems += [below(group, problem) for problem in error.problems]
        return {}
    reader = source.Reader(str(file), "preset")
    if not isinstance(node, yaml.MappingNode):
        found.problems.append(Problem("expected a mapping of keys", group, Origin(str(file), 1, 1, "preset")))
        return {}
    values = {key: reader.plain(child, (key,)) for key, child in reader.items(node, ())}
    _take(found, reader, group)
    return values


def _places(folder: pathlib.Path, group: str, name: str) -> Iterator[pathlib.Path]:
    """Where a preset is looked for, in order: beside the file, in its configs, in the package."""
    file = f"{name.removesuffix('.yaml')}.yaml"
    yield folder / group / file
    yield folder / "configs" / group / file
    yield LIBRARY / group / file


def _override(found: Gathered, override: Override) -> None:
    group = override.path[0]
    if group not in GROUPS:
        found.problems.append(unknown_group(group, command_line.ORIGIN, dotted(override.path)))
        return
    found.values.setdefault(str(group), {})
    problem = command_line.put(found.values, override)
    if problem is not None:
        found.problems.append(problem)
        return
    _place(found, override)


def _place(found: Gathered, override: Override) -> None:
    """Note that a value and all inside it come from the command line."""
    size = len(override.path)
    for table in (found.origins, found.keys):
        for path in [path for path in table if path[:size] == override.path]:
            del table[path]
        table[override.path] = command_line.ORIGIN


def unknown_group(name: Any, origin: Origin | None, path: str = "") -> Problem:
    """The problem of a name that is no group, with the group that was meant."""
    owners = [group for group, schema in GROUPS.items() if name in field_names(schema)]
    if owners:
        return Problem(f"{name} belongs to {' and '.join(owners)}", path or str(name), origin, f"write it as {owners[0]}.{name}")
    near = nearest(str(name), GROUPS)
    hint = f"did you mean {near!r}?" if near else "groups: " + ", ".join(GROUPS)
    return Problem(f"there is no group {str(name)!r}", path or str(name), origin, hint)
