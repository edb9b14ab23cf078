"""Where the values of a graph came from, step by step: default, preset, base template, file, environment, override."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom import config
from ironloom.config import source
from ironloom.config.defaults import defaults
from ironloom.config.graph import Calc, Graph, Node, Path, Step, Var, children, dotted, is_leaf, walk
from ironloom.config.validate import as_path
from ironloom.config.views.tree import headline
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import field_names, nearest
from ironloom.settings.groups import GROUPS

DEFAULT = Origin("default", route="default")


@dataclass(frozen=True)
class Explanation:
    """The history of one value.

    Attributes:
        path: Its place in the graph, dotted; of what is shared, the first one.
        keys: The user's own names for it, or for what it was made from.
        steps: What stood there, oldest first; the last step is what holds.
    """

    path: str
    keys: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def value(self) -> Any:
        """What holds."""
        return self.steps[-1].value


def explain(graph: Graph, key: str | None = None) -> list[Explanation]:
    """The history of a value, or of every value below a place.

    Args:
        graph: A graph as a front end made it.
        key: A path in the graph (``main.args.max_steps``), a key of the configuration (``operation.train_steps``), or a variable
            of a template: the values that it gave. A node or container stands for every value in it. An argument that is not
            given is explained by its default. None: everything.

    Raises:
        ConfigError: If there is nothing of that name; with the nearest one.
    """
    found = {path: value for path, value in walk(graph.root) if path and _is_end(value)}
    if key is None:
        return [_explanation(graph, path, value) for path, value in found.items()]
    wanted = as_path(key)
    first = {id(value): path for path, value in walk(graph.root) if not is_leaf(value)}
    chosen = [path for path in found if any(_is_below(as_path(name), wanted) for name in graph.keys.get(path, ()))]
    if key in graph.variables:
        chosen += [path for path in found if graph.origins.get(path) == graph.variables[key]]
    wanted = _actual(graph.root, wanted)
    holder, rest = _reach(graph.root, wanted)
    if not rest:
        inside = [wanted] if is_leaf(holder) else [path for path, value in walk(holder, wanted) if _is_end(value)]
        chosen = [*(_first_place(graph, path, first) for path in inside), *chosen]
    elif len(rest) == 1 and isinstance(holder, Node) and rest[0] in defaults(holder.target):
        step = Step(defaults(holder.target)[str(rest[0])], _default_of(holder))
        return [Explanation(dotted((*first[id(holder)], rest[0])), (), (step,))]
    if not chosen:
        raise ConfigError(_unknown(graph, wanted, holder, rest, found))
    return [_explanation(graph, path, found[path]) for path in dict.fromkeys(chosen)]


def explain_file(
    path: str | pathlib.Path, overrides: Sequence[str] = (), arguments: Mapping[str, Any] | None = None, key: str | None = None
) -> list[Explanation]:
    """The same of a configuration file; of one in groups also for keys that have no part in the graph, such as ``parallel.rank``.

    Raises:
        ConfigError: If the configuration cannot be loaded, or there is nothing of that name.
    """
    graph = config.load(path, overrides, arguments)
    try:
        return explain(graph, key)
    except ConfigError:
        group, *rest = as_path(key or "")
        if not (config.style(path) == "groups" and group in GROUPS and rest and rest[0] in field_names(GROUPS[str(group)])):
            raise
    from ironloom.config.groups.read import gather

    found = gather(path, source.read_text(path), overrides, os.environ)
    place = (group, *rest)
    value, unknown = _reach(GROUPS[str(group)](**found.values.get(str(group), {})).to_dict(), place[1:])
    if unknown:
        raise ConfigError(_unknown(graph, place, value, unknown, ()))
    shown = found.shown(place) if found.given(*place) else value
    return [Explanation(dotted(place), (), (*found.steps(place), Step(shown, found.origin(place))))]


def _is_end(value: Any) -> bool:
    """Whether a value is explained itself, not by its parts."""
    return is_leaf(value) or isinstance(value, (Var, Calc)) or (not isinstance(value, Node) and not value)


def _is_below(path: Path, wanted: Path) -> bool:
    return path[: len(wanted)] == wanted


def _reach(root: Any, path: Path) -> tuple[Any, Path]:
    """The value at a path, or the last one on the way to it with what is left of the path."""
    value = root
    for depth, key in enumerate(path):
        inside = {str(name): child for name, child in children(value)}
        if is_leaf(value) or str(key) not in inside:
            return value, path[depth:]
        value = inside[str(key)]
    return value, ()


def _actual(root: Any, path: Path) -> Path:
    """The path with the keys that there are: some hold dots themselves, as the names of modules do."""
    value, found, rest = root, [], path
    while rest:
        inside = {str(name): (name, child) for name, child in children(value)}
        end = next((end for end in range(1, len(rest) + 1) if dotted(rest[:end]) in inside), None)
        if end is None:
            return path
        name, value = inside[dotted(rest[:end])]
        found.append(name)
        rest = rest[end:]
    return tuple(found)


def _first_place(graph: Graph, path: Path, first: dict[int, Path]) -> Path:
    """The path under which a value is recorded: that of the first occurrence of what holds it."""
    holder, _ = _reach(graph.root, path[:-1])
    here = {str(name): name for name, _ in children(holder)}[str(path[-1])]
    value, _ = _reach(graph.root, path)
    return first[id(value)] if id(value) in first and not is_leaf(value) else (*first[id(holder)], here)


def _explanation(graph: Graph, path: Path, value: Any) -> Explanation:
    steps = list(_earlier(graph, path))
    keys = graph.keys.get(path, ())
    holder, _ = _reach(graph.root, path[:-1])
    origin = graph.origin(path) or (holder.origin if isinstance(holder, Node) else None) or DEFAULT
    is_set = origin.route != "default" and not any(step.origin.route == "default" for step in steps)
    if is_set and not keys and isinstance(holder, Node) and path[-1] in defaults(holder.target):
        steps.insert(0, Step(defaults(holder.target)[str(path[-1])], _default_of(holder)))
    return Explanation(dotted(path), keys, (*steps, Step(value, origin)))


def _earlier(graph: Graph, path: Path) -> Iterator[Step]:
    """What stood at a path before, also as a part of something that was replaced as a whole."""
    for end in range(1, len(path) + 1):
        for step in graph.earlier.get(path[:end], ()):
            value, rest = _reach(step.value, path[end:])
            if not rest:
                yield Step(value, step.origin)


def _default_of(node: Node) -> Origin:
    return Origin(f"default of {node.target}", route="default")


def _unknown(graph: Graph, wanted: Path, holder: Any, rest: Path, found: Iterable[Path]) -> Problem:
    """The problem of a key that leads nowhere, with the one that was meant."""
    known = {str(key) for key, _ in children(holder)}
    known |= {str(key) for key in defaults(holder.target)} if isinstance(holder, Node) else set()
    beside = nearest(str(rest[0]), known) if rest and len(rest) < len(wanted) else None
    if beside is not None:
        near: str | None = dotted((*wanted[: len(wanted) - len(rest)], beside, *rest[1:]))
    else:
        groups = [f"{group}.{name}" for group, cls in GROUPS.items() for name in field_names(cls)] if graph.keys else []
        names = [*groups, *(name for keys in graph.keys.values() for name in keys), *map(dotted, found), *map(str, graph.root)]
        near = nearest(dotted(wanted), dict.fromkeys(names))
    hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
    return Problem("there is nothing of this name in the configuration", dotted(wanted), hint=hint)


def history(explanation: Explanation) -> list[str]:
    """The lines that tell one history: the value, then every step with its route and place."""
    also = f"  ({', '.join(explanation.keys)})" if explanation.keys else ""
    rows = [(step.origin.route, headline(step.value), _place(step.origin)) for step in explanation.steps]
    return [f"{explanation.path} = {headline(explanation.value)}{also}", *(f"  {line}" for line in _columns(rows))]


def table(explanations: Iterable[Explanation]) -> list[str]:
    """One line for each value: path, value, how it got there, and from where."""
    rows = []
    for each in explanations:
        origin = each.steps[-1].origin
        rows.append((each.path, headline(each.value), origin.route, _place(origin), ", ".join(each.keys)))
    return _columns(rows)


def _place(origin: Origin) -> str:
    return "" if str(origin) == origin.route else str(origin)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines in which the columns begin at the same place; long cells do not widen their column."""
    if not rows:
        return []
    widths = [min(40, max(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
