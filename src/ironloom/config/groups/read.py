"""From a grouped file, what it names, and overrides to plain values by group, with the place of each."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ironloom.config import overrides as command_line
from ironloom.config import scalars, source
from ironloom.config.graph import dotted
from ironloom.config.groups import datafile
from ironloom.config.groups.gathered import Gathered, Layer
from ironloom.config.groups.owners import unknown_group
from ironloom.config.groups.presets import Presets
from ironloom.config.overrides import Override
from ironloom.errors import Origin, Problem
from ironloom.settings.groups import GROUPS, PRESET


def gather(path: str | pathlib.Path, text: str, settings: Iterable[str], environment: Mapping[str, str]) -> Gathered:
    """Read a grouped file and everything it names. Problems are collected, not raised.

    Args:
        path: The file.
        text: What it holds.
        settings: Overrides, ``group.key=value``.
        environment: Variables that references stand for.

    Raises:
        ConfigError: Only if the file is not YAML.
    """
    found = Gathered()
    main = pathlib.Path(path)
    reader = source.Reader(str(path), environment=environment)
    root = source.compose(text, str(path))
    whole = root if isinstance(root, yaml.MappingNode) else yaml.MappingNode(scalars.MAP, [])
    groups: dict[Any, Layer] = {
        key: Layer.of({PRESET: value} if isinstance(value, str) else value, reader, (key,))
        for key, value in ((key, reader.plain(node, (key,))) for key, node in reader.items(whole, ()))
    }
    found.problems += reader.problems
    found.origins[()] = Origin(str(path), 1, 1)
    found.origins.update({path: origin for path, origin in reader.values.items() if len(path) == 1})
    found.keys.update({path: origin for path, origin in reader.keys.items() if len(path) == 1})
    overrides, wrong = command_line.parse(settings, environment)
    found.problems += wrong
    later = [override for override in overrides if not _chooses(groups, found, override)]
    for group, layer in groups.items():
        if group in GROUPS:
            _group(found, main, group, layer, later, environment)
        else:
            found.problems.append(unknown_group(group, found.keys.get((group,))))
    if "data" not in groups:
        _group(found, main, "data", Layer({}), later, environment)
    for override in later:
        _override(found, override)
    datafile.share(found)
    return found


def _chooses(groups: dict[Any, Layer], found: Gathered, override: Override) -> bool:
    """Whether an override is about a whole group or its preset; then it is done."""
    group = override.path[0]
    if group not in GROUPS or override.path[1:] not in ((), (PRESET,)):
        return False
    layer = Layer.of(override.value, override.reader)
    if len(override.path) == 1:
        groups[group] = Layer.of({PRESET: override.value}, override.reader) if isinstance(override.value, str) else layer
        found.origins[(group,)] = found.keys[(group,)] = command_line.ORIGIN
        return True
    if group not in groups or not isinstance(groups[group].values, dict):
        groups[group] = Layer({})
    groups[group].values[PRESET] = override.value
    groups[group].origins[(PRESET,)] = command_line.ORIGIN
    return True


def _group(
    found: Gathered, main: pathlib.Path, group: str, layer: Layer, overrides: list[Override], environment: Mapping[str, str]
) -> None:
    """Merge the layers of a group: the data file, presets, then what stands in the group itself."""
    found.values.setdefault(group, {})
    if layer.values is None:
        return
    if not isinstance(layer.values, dict):
        message = f"expected a mapping of keys or the name of a preset, found {layer.values!r}"
        found.problems.append(Problem(message, group, found.origins.get((group,))))
        return
    presets = Presets(environment, found.problems)
    name = layer.values.pop(PRESET, None)
    where = layer.origins.get((PRESET,)) or layer.origins.get(()) or found.origins.get((group,))
    named = [] if name is None else presets.layers(group, name, where, (main,))
    if group == "data":
        file = datafile.named([*named, layer], overrides)
        if file is not None:
            named.insert(0, presets.data_file(*file, main))
        for part in named:
            datafile.split(found, part)
    for part in (*named, layer):
        found.merge(group, part)


def _override(found: Gathered, override: Override) -> None:
    group = override.path[0]
    if group not in GROUPS:
        found.problems.append(unknown_group(group, command_line.ORIGIN, dotted(override.path)))
        return
    found.values.setdefault(str(group), {})
    found.replace(override.path)
    problem = command_line.put(found.values, override)
    if problem is not None:
        found.problems.append(problem)
        return
    layer = Layer.of(override.value, override.reader)
    for mine, theirs in zip(found.tables(), layer.tables(), strict=True):
        mine.update({(*override.path, *path): value for path, value in theirs.items()})
    for end in range(1, len(override.path) + 1):
        for table in (found.keys, found.origins):
            table.setdefault(override.path[:end], command_line.ORIGIN)
    if override.adds:
        found.added.add(dotted(override.path))
