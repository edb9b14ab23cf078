"""The text between a configuration file and its graph: a rendered template, or groups with presets and overrides merged."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ironloom import config
from ironloom.config import overrides as command_line
from ironloom.config import scalars, source, tagged
from ironloom.config.graph import Graph
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest
from ironloom.settings.groups import GROUPS


def preprocessed(
    path: str | pathlib.Path, overrides: Sequence[str] = (), arguments: Mapping[str, Any] | None = None, name: str | None = None
) -> str:
    """The preprocessed text of a configuration.

    Args:
        path: The file.
        overrides: Overrides; of a template only ``name=value`` changes its text, ``target.argument=value`` its graph.
        arguments: Values of the options that a template declares.
        name: Only this target or group.

    Raises:
        ConfigError: If the configuration cannot be read, or has no such part.
    """
    kind = config.style(path)
    if kind == "templates":
        from ironloom.config import projects, templates

        rendered = templates.render(path, projects.search_path(path), arguments, _names(overrides))
        return rendered.text.rstrip("\n") + "\n" if name is None else _root_part(rendered.text, str(path), name)
    if kind == "groups" and (name is None or name in GROUPS):
        merged = _merged_groups(path, overrides)
        return _dump(merged if name is None else {name: merged.get(name, {})})
    graph = config.load(path, overrides, arguments)
    if name is None:
        return _dump(graph.root)
    _must_know(name, [*graph.root, *(GROUPS if kind == "groups" else ())])
    return _dump({name: graph.root[name]})


def _names(overrides: Sequence[str]) -> dict[str, Any]:
    """The overrides that are about names that templates set: ``name=value``."""
    parsed, _ = command_line.parse(overrides)
    return {str(override.path[0]): override.value for override in parsed if len(override.path) == 1}


def _merged_groups(path: str | pathlib.Path, overrides: Sequence[str]) -> dict[str, Any]:
    from ironloom.config.groups.read import gather

    found = gather(path, source.read_text(path), overrides, os.environ)
    if found.problems:
        raise ConfigError(found.problems)
    return {group: found.shown((group,)) for group in GROUPS if found.values.get(group)}


def _dump(root: Mapping[str, Any]) -> str:
    return tagged.dump(Graph(dict(root))).removeprefix(tagged.HEADER).lstrip("\n")


def _root_part(text: str, file: str, name: str) -> str:
    """The lines of a rendered text that make one of its root keys, with what stands directly above as comment."""
    node = source.compose(text, file)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    starts = {key.value: key.start_mark.line for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.tag == scalars.STR}
    _must_know(name, list(starts))
    lines = text.splitlines(keepends=True)
    end = min((line for line in starts.values() if line > starts[name]), default=len(lines))
    while end > starts[name] + 1 and not lines[end - 1].partition("#")[0].strip():
        end -= 1  # what is above the next key is about that key
    return "".join(lines[starts[name] : end]).rstrip("\n") + "\n"


def _must_know(name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else "there is: " + ", ".join(known)
        raise ConfigError(Problem("there is no such part in the configuration", path=name, hint=hint))


def files_used(
    path: str | pathlib.Path, overrides: Sequence[str] = (), arguments: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """Name and file of everything that a configuration is made from, the configuration itself first.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    if config.style(path) == "templates":
        from ironloom.config import projects, templates

        return list(templates.render(path, projects.search_path(path), arguments, _names(overrides)).templates)
    graph = config.load(path, overrides, arguments)
    places = [*graph.origins.values(), *(step.origin for steps in graph.earlier.values() for step in steps)]
    files = dict.fromkeys([str(path), *(place.source for place in places if place.line is not None)])
    return [(pathlib.Path(file).name, file) for file in files]
