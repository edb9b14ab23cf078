"""What stood at each place of a graph before: the default, then what the file said."""

from __future__ import annotations

from typing import Any

from ironloom.config.graph import Graph, Node, Path, Step, is_leaf
from ironloom.config.overrides import ORIGIN
from ironloom.errors import Origin

DEFAULT = Origin("default", route="default")


def note_earlier(graph: Graph, default: Graph, before: Graph | None) -> None:
    """Fill ``graph.earlier``.

    Args:
        graph: The graph.
        default: That of a configuration that says nothing.
        before: That of the same configuration without overrides; None if it has none of its own.
    """
    for path, origin in graph.origins.items():
        if origin == DEFAULT:
            continue
        steps = []
        there, value = _reach(default.root, path)
        if there:
            steps.append(Step(value, DEFAULT))
        if origin == ORIGIN and before is not None and before.origins.get(path, DEFAULT) != DEFAULT:
            there, value = _reach(before.root, path)
            if there:
                steps.append(Step(value, before.origins[path]))
        if steps:
            graph.earlier[path] = steps


def _reach(root: Any, path: Path) -> tuple[bool, Any]:
    """Whether there is plain data at ``path``, and it."""
    value: Any = root
    for key in path:
        if isinstance(value, Node):
            value = value.args if isinstance(key, int) else value.kwargs
        known = range(len(value)) if isinstance(value, (list, tuple)) else value if isinstance(value, dict) else ()
        if key not in known:
            return False, None
        value = value[key]
    return is_leaf(value) or type(value) in (list, dict), value
