"""Settings from the command line: ``a.b=value``. Owns their grammar; knows no keys.

The value is YAML with the scalar rules of the files: ``1e-3``, ``[1, 2]``, ``null``, ``{a: 1}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ironloom.config import source
from ironloom.config.graph import Graph, Node, Path, dotted
from ironloom.config.validate import as_path
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

ORIGIN = Origin("command line", route="override")
_FORM = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*=", re.ASCII)


@dataclass(frozen=True)
class Override:
    """One setting from the command line: where it goes and what it is."""

    path: Path
    value: Any


def is_override(text: str) -> bool:
    """Whether an argument of the command line has the form of an override."""
    return _FORM.match(text) is not None


def parse(texts: Iterable[str]) -> tuple[list[Override], list[Problem]]:
    """The overrides that ``texts`` spell, and what is wrong with the others."""
    overrides, problems = [], []
    for text in texts:
        key, _, value = text.partition("=")
        if not is_override(text):
            problems.append(Problem(f"expected key=value, found {text!r}", origin=ORIGIN))
            continue
        reader = source.Reader(ORIGIN.source, ORIGIN.route)
        try:
            node = source.compose(value, ORIGIN.source)
        except ConfigError as error:
            problems += [Problem(problem.message, key, ORIGIN) for problem in error.problems]
            continue
        overrides.append(Override(as_path(key), None if node is None else reader.plain(node, ())))
        problems += [Problem(problem.message, key, ORIGIN, problem.hint) for problem in reader.problems]
    return overrides, problems


def put(root: dict[Any, Any], override: Override) -> Problem | None:
    """Set a value in plain nested data, making mappings on the way; returns what is wrong with it."""
    holder: Any = root
    for depth, key in enumerate(override.path[:-1], start=1):
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
        problem = _misfit(holder, key, override.path[:depth])
        if problem:
            return problem
        holder = holder[key]
    problem = _misfit(holder, override.path[-1], override.path)
    if problem:
        return problem
    holder[override.path[-1]] = override.value
    return None


def _misfit(holder: Any, key: str | int, path: Path) -> Problem | None:
    """Why ``key`` cannot be set or entered in ``holder``."""
    if isinstance(holder, dict) or (isinstance(holder, list) and isinstance(key, int) and key < len(holder)):
        return None
    inside = dotted(path[:-1])
    what = f"{inside} is a list of {len(holder)}" if isinstance(holder, list) else f"{inside} is {holder!r}, not a mapping"
    return Problem(f"cannot be set: {what}", dotted(path), ORIGIN)


def apply(graph: Graph, texts: Iterable[str]) -> None:
    """Set values in a graph that nobody else holds yet: ``target.argument=value``.

    Raises:
        ConfigError: With every override that is malformed or leads nowhere.
    """
    overrides, problems = parse(texts)
    for override in overrides:
        problem = _apply(graph, override)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise ConfigError(problems)


def _apply(graph: Graph, override: Override) -> Problem | None:
    first = override.path[0]
    if first not in graph.root:
        near = nearest(str(first), map(str, graph.root))
        hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
        return Problem("no such target in the configuration", dotted(override.path), ORIGIN, hint)
    holder: Any = graph.root
    for depth, key in enumerate(override.path[:-1], start=1):
        problem = _misfit(holder, key, override.path[:depth])
        if problem:
            return problem
        if isinstance(holder, dict) and key not in holder:
            return Problem("there is nothing of this name to go into", dotted(override.path[:depth]), ORIGIN)
        holder = _inside(holder[key])
    problem = _misfit(holder, override.path[-1], override.path)
    if problem:
        return problem
    holder[override.path[-1]] = override.value
    size = len(override.path)
    graph.origins = {path: origin for path, origin in graph.origins.items() if path[:size] != override.path}
    graph.origins[override.path] = ORIGIN
    return None


def _inside(value: Any) -> Any:
    """What holds the named parts of a value."""
    return value.kwargs if isinstance(value, Node) else value
