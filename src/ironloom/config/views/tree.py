"""A graph as indented text, one line for each part; what stands in several places is shown once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ironloom.config import scalars
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, children, dotted, is_leaf

_WIDTH = 60  # origins begin in this column where the line before them is shorter


def dump(graph: Graph, *, origins: bool = False) -> str:
    """The tree.

    Args:
        graph: What to write.
        origins: Say at the end of each line where its value came from.
    """
    text = []
    for line, path in _lines(graph.root, (), 0, {}):
        origin = graph.origin(path) or graph.origins.get((*path, 0)) if origins else None
        text.append(f"{line:<{_WIDTH}}  # {origin}" if origin else line)
    return "\n".join(text) + "\n"


def _lines(value: Any, path: Path, depth: int, seen: dict[int, Path]) -> Iterator[tuple[str, Path]]:
    """A line and the path it is about, for everything in ``value``."""
    for key, child in children(value):
        inner = (*path, key)
        label = f"{'  ' * depth}{label_of(key)}: "
        if not is_leaf(child) and id(child) in seen:
            yield f"{label}same as {dotted(seen[id(child)])}", inner
            continue
        yield label + headline(child), inner
        if not is_leaf(child) and child != ():
            seen[id(child)] = inner
        if not is_flat(child):
            yield from _lines(child, inner, depth + 1, seen)


def headline(value: Any) -> str:
    """A node, variable, container or leaf in a few words."""
    if isinstance(value, Node):
        return f"{value.mode} {value.target}" + (f" ({value.name})" if value.name else "")
    if isinstance(value, Var):
        return f"variable {value.name}" + (" (required)" if value.default is REQUIRED else "")
    if isinstance(value, Calc):
        return f"calculation {value.expression}"
    if type(value) is dict:
        return "mapping" if value else "{}"
    if type(value) in (list, tuple):
        kind = "list" if type(value) is list else "tuple"
        return f"{kind} of {len(value)}" if not is_flat(value) else _flat(value)
    return leaf(value)


def leaf(value: Any) -> str:
    """A leaf on one line, as YAML spells it; a text in quotes where it could be taken for something else."""
    try:
        _, text = scalars.write(value)
    except TypeError:
        return f"object {type(value).__name__}"
    if isinstance(value, str) and (not re.fullmatch(r"[\w./:%+~\-][\w ./:%+~\-]*", text) or _is_number(text)):
        return ascii(text)
    return text


def label_of(key: Any) -> str:
    """A key on one line."""
    return str(key) if not isinstance(key, str) or key.isprintable() else ascii(key)


def _is_number(text: str) -> bool:
    """Whether YAML would not take a plain ``text`` for a text."""
    rules = scalars.resolvers().get(text[:1], ())
    return scalars.ambiguous(text) or any(pattern.match(text) for _, pattern in rules)


def is_flat(value: Any) -> bool:
    """Whether a value needs no lines for its parts: a leaf, or a short list of leaves."""
    if is_leaf(value) or value == {}:
        return True
    return type(value) in (list, tuple) and all(map(is_leaf, value)) and len(_flat(value)) <= _WIDTH


def _flat(value: Any) -> str:
    inside = ", ".join(map(leaf, value))
    if type(value) is list:
        return f"[{inside}]"
    return f"({inside},)" if len(value) == 1 else f"({inside})"
