"""A template file, its arguments and overrides to a graph."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ironloom.config import overrides as command_line
from ironloom.config.graph import Graph
from ironloom.config.templates import variables
from ironloom.config.templates.read import read
from ironloom.config.templates.render import render
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest


def load(
    path: str | pathlib.Path,
    search: Sequence[str | pathlib.Path],
    arguments: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Graph:
    """The graph of a template; ``!var`` and ``!calc`` have their values where these are known.

    Args:
        path: The file.
        search: Folders in which templates are found by name, first one first.
        arguments: Variables that the templates see.
        overrides: ``target.argument=value``, or ``name=value`` for a variable. They win over everything.

    Raises:
        ConfigError: With every problem of the template, of its text, or of the overrides.
    """
    texts = list(overrides)
    given, _ = command_line.parse(texts)
    bare = {str(override.path[0]): override.value for override in given if len(override.path) == 1 and not override.adds}
    rendered = render(path, search, arguments, bare)
    graph = read(rendered, path, search)
    used = rendered.used | set(variables.used(graph.root))
    problems = _unknown([name for name in bare if name not in graph.root and name not in used], graph, used | set(rendered.variables))
    try:
        command_line.apply(graph, [text for text in texts if text.partition("=")[0] not in bare or text.partition("=")[0] in graph.root])
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    variables.resolve(graph, rendered, {name: value for name, value in bare.items() if name in used})
    return graph


def _unknown(names: list[str], graph: Graph, used: set[str]) -> list[Problem]:
    """A problem for every name that is neither a target nor a variable."""
    known = {*map(str, graph.root), *used} - set(names)
    problems = []
    for name in names:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
        problems.append(Problem("no such target or variable in the configuration", name, command_line.ORIGIN, hint))
    return problems
