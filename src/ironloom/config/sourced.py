"""Values with their origin, for front ends that write graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.config.graph import REQUIRED, Graph, Node, Path, Step, Var, is_leaf
from ironloom.errors import Origin


@dataclass(frozen=True, eq=False)
class Sourced:
    """A value of a graph and where it came from.

    Attributes:
        value: The value.
        origin: Where it came from.
        earlier: What stood there before, oldest first.
        keys: The keys of the user that it was made from, by their own names.
    """

    value: Any
    origin: Origin
    earlier: Sequence[Step] = ()
    keys: tuple[str, ...] = ()


def settle(root: dict[str, Any]) -> Graph:
    """A graph from values that may hold :class:`Sourced` ones: these move into the graph's origins.

    What is shared before is shared after.
    """
    graph = Graph({})
    made: dict[int, Any] = {}
    for name, value in root.items():
        graph.root[name] = _settled(value, (name,), graph, made)
    return graph


def _settled(value: Any, path: Path, graph: Graph, made: dict[int, Any]) -> Any:
    if isinstance(value, Sourced):
        graph.origins[path] = value.origin
        if value.earlier:
            graph.earlier[path] = list(value.earlier)
        if value.keys:
            graph.keys[path] = value.keys
        return value.value if is_leaf(value.value) else _settled(value.value, path, graph, made)
    if is_leaf(value):
        return value
    if id(value) not in made:
        made[id(value)] = _copied(value, path, graph, made)
    return made[id(value)]


def _copied(value: Any, path: Path, graph: Graph, made: dict[int, Any]) -> Any:
    def inside(key: str | int, child: Any) -> Any:
        return _settled(child, (*path, key), graph, made)

    if isinstance(value, Node):
        args = tuple(inside(index, child) for index, child in enumerate(value.args))
        return dataclasses.replace(value, args=args, kwargs={key: inside(key, child) for key, child in value.kwargs.items()})
    if isinstance(value, Var):
        return value if value.default is REQUIRED else dataclasses.replace(value, default=inside("default", value.default))
    if type(value) is dict:
        return {key: inside(key, child) for key, child in value.items()}
    return type(value)(inside(index, child) for index, child in enumerate(value))
