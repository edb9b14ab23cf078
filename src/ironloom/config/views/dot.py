"""A graph in Graphviz's language: a box for each node and container, an edge for each place it is used."""

from __future__ import annotations

from typing import Any

from ironloom.config.graph import Calc, Graph, Node, Var, children, occurrences, walk
from ironloom.config.views.tree import headline, is_flat, label_of

_SHAPES = {"call": "box", "factory": "box3d", "partial": "component", "meta": "note"}
_LONGEST = 60  # characters of a value in a box


def dump(graph: Graph) -> str:
    """Text for ``dot``. What is shared is one box; leaves stand in the box of what holds them."""
    lines = ["digraph configuration {", "  rankdir=LR;", '  node [fontname="monospace", fontsize=10, shape=box];']
    shared = {identity for identity, count in occurrences(graph.root).items() if count > 1}

    def stands_inside(value: Any) -> bool:
        return is_flat(value) and id(value) not in shared

    boxes = [value for path, value in walk(graph.root) if not path or not stands_inside(value)]
    numbers = {id(value): number for number, value in enumerate(boxes)}
    for value in boxes:
        inside = [f"{label_of(key)}: {_short(headline(child))}" for key, child in children(value) if stands_inside(child)]
        title = headline(value) if value is not graph.root else "configuration"
        label = "\n".join([_short(title), *inside])
        lines.append(f"  n{numbers[id(value)]} [label={quoted(label, left=True)}, {_style(value)}];")
    for value in boxes:
        for key, child in children(value):
            if id(child) in numbers and not stands_inside(child):
                lines.append(f"  n{numbers[id(value)]} -> n{numbers[id(child)]} [label={quoted(label_of(key))}];")
    return "\n".join([*lines, "}"]) + "\n"


def quoted(text: str, *, left: bool = False) -> str:
    """A text in double quotes as Graphviz reads it; ``left``: its lines begin at the left edge."""
    end = "\\l" if left else "\\n"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", end) + (end if left else "") + '"'


def _short(text: str) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _style(value: Any) -> str:
    if isinstance(value, Node):
        return f"shape={_SHAPES[value.mode]}"
    return "shape=ellipse" if isinstance(value, (Var, Calc)) else "style=rounded"
