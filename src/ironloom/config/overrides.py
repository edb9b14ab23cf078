"""Settings from the command line: ``a.b=value``. Owns their grammar; knows no keys.

The value is YAML with the scalar rules of the files: ``1e-3``, ``[1, 2]``, ``null``, ``{a: 1}``. ``+a.b=value`` may
add what was not there: mappings on the way, an item at the end of a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.config import source
from ironloom.config.graph import Calc, Graph, Node, Path, Step, Var, dotted, walk
from ironloom.config.validate import as_path
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

ORIGIN = Origin("command line", route="override")
_FORM = re.compile(r"\+?[A-Za-z_][\w-]*(?:\.[\w-]+)*=", re.ASCII)


@dataclass(frozen=True)
class Override:
    """One setting from the command line.

    Attributes:
        path: Where it goes.
        value: What it is.
        reader: What was noted while the value was read; its paths begin at the value.
        adds: Whether it may add something new (``+``).
    """

    path: Path
    value: Any
    reader: source.Reader
    adds: bool = False


def is_override(text: str) -> bool:
    """Whether an argument of the command line has the form of an override."""
    return _FORM.match(text) is not None


def parse(texts: Iterable[str], environment: Mapping[str, str] | None = None) -> tuple[list[Override], list[Problem]]:
    """The overrides that ``texts`` spell, and what is wrong with the others.

    Args:
        texts: ``key=value`` or ``+key=value``.
        environment: Variables that references in values stand for; None: such a text is plain.
    """
    overrides, problems = [], []
    for text in texts:
        key, _, value = text.removeprefix("+").partition("=")
        if not is_override(text):
            problems.append(Problem(f"expected key=value, found {text!r}", origin=ORIGIN))
            continue
        reader = _CommandLine(ORIGIN.source, ORIGIN.route, environment=environment)
        try:
            node = source.compose(value, ORIGIN.source)
        except ConfigError as error:
            problems += [Problem(problem.message, key, ORIGIN, problem.hint) for problem in error.problems]
            continue
        made = None if node is None else reader.plain(node, ())
        reader.values.setdefault((), ORIGIN)
        overrides.append(Override(as_path(key), made, reader, text.startswith("+")))
        problems += [Problem(problem.message, key, ORIGIN, problem.hint) for problem in reader.problems]
    return overrides, problems


class _CommandLine(source.Reader):
    """Reads values that have no line and column."""

    def origin(self, node: Any) -> Origin:
        """The command line."""
        return ORIGIN


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
    return _set(holder, override)


def _set(holder: Any, override: Override) -> Problem | None:
    """Set the last key of an override in what holds it."""
    key = override.path[-1]
    if override.adds and isinstance(holder, list) and key == len(holder):
        holder.append(override.value)
        return None
    problem = _misfit(holder, key, override.path)
    if problem:
        return problem
    holder[key] = override.value
    return None


def _misfit(holder: Any, key: str | int, path: Path) -> Problem | None:
    """Why ``key`` cannot be set or entered in ``holder``."""
    if isinstance(holder, dict) or (isinstance(holder, list) and isinstance(key, int) and key < len(holder)):
        return None
    inside, hint = dotted(path[:-1]), ""
    if isinstance(holder, list):
        what = f"{inside} is a list of {len(holder)}"
        hint = f"+{inside}.{len(holder)}=... adds to it"
    elif isinstance(holder, (Var, Calc)):
        what = f"{inside} is computed when the graph is built"
    else:
        what = f"{inside} is {holder!r}, not a mapping"
    return Problem(f"cannot be set: {what}", dotted(path), ORIGIN, hint)


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
    if first not in graph.root and not (override.adds and len(override.path) == 1):
        near = nearest(str(first), map(str, graph.root))
        hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
        return Problem("no such target in the configuration", dotted(override.path), ORIGIN, hint)
    owner: Any = graph.root
    holder: Any = graph.root
    for depth, key in enumerate(override.path[:-1], start=1):
        problem = _misfit(holder, key, override.path[:depth])
        if problem:
            return problem
        if isinstance(holder, dict) and key not in holder:
            if not override.adds:
                hint = f"did you mean {nearest(str(key), map(str, holder))!r}?" if nearest(str(key), map(str, holder)) else ""
                return Problem("there is nothing of this name to go into", dotted(override.path[:depth]), ORIGIN, hint)
            holder[key] = {}
        owner = holder[key]
        holder = owner.kwargs if isinstance(owner, Node) else owner
    place = _place(graph, owner, override.path)
    before = _before(graph, holder, place)
    problem = _set(holder, override)
    if problem:
        return problem
    if before is not None:
        graph.earlier.setdefault(place, []).append(before)
    size = len(place)
    graph.origins = {path: origin for path, origin in graph.origins.items() if path[:size] != place}
    graph.origins.update({(*place, *path): origin for path, origin in override.reader.values.items()})
    return None


def _place(graph: Graph, owner: Any, path: Path) -> Path:
    """The first path of what an override names by any path."""
    front = next((front for front, value in walk(graph.root) if value is owner), path[:-1])
    return (*front, path[-1])


def _before(graph: Graph, holder: Any, place: Path) -> Step | None:
    """What stands where an override goes, if that is known to come from somewhere."""
    key = place[-1]
    known = range(len(holder)) if isinstance(holder, list) else holder if isinstance(holder, dict) else ()
    if key not in known:
        return None
    value = holder[key]
    origin = graph.origins.get(place) or (value.origin if isinstance(value, (Node, Var, Calc)) else None)
    return None if origin is None else Step(_plain(value), origin)


def _plain(value: Any) -> Any:
    """A value as plain data, what is built later as text."""
    if isinstance(value, Node):
        return f"!{value.mode}:{value.target}"
    if isinstance(value, Var):
        return f"!var {value.name}"
    if isinstance(value, Calc):
        return f"!calc {value.expression}"
    if type(value) is dict:
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if type(value) in (list, tuple) else value
