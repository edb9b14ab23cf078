"""The object graph: the one form between every way to write a configuration and every use of it.

Owns the data types and how to walk them. Knows nothing of files, text or building. A graph is made
of :class:`Node` (a callable and its arguments), :class:`Var`, :class:`Calc`, plain ``dict``, ``list``
and ``tuple``, and leaves. Identity matters: the same node or container in two places is one object
in the built result too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ironloom.errors import Origin, Problem

Mode = Literal["call", "factory", "partial", "meta"]
Path = tuple[str | int, ...]


class _Required:
    """Marks a variable without a default."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


@dataclass(frozen=True, eq=False)
class Node:
    """A callable and how it is used.

    Attributes:
        target: ``module:attr.attr`` of the callable, or ``/folder/file.py:attr.attr``.
        mode: ``call``: called once per build and shared; ``factory``: called for each occurrence;
            ``partial``: a callable that takes further arguments, or the target itself when
            there are no arguments; ``meta``: called once with its arguments as they stand in the
            graph, unbuilt (for what works on configurations, a code generator say).
        args: Positional arguments.
        kwargs: Keyword arguments.
        name: A name to show, unique in its graph.
        origin: Where the node stands.

    Raises:
        ValueError: If the target is empty or contains ``@``, which separates the name in text.
    """

    target: str
    mode: Mode = "call"
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if not self.target or "@" in self.target:
            raise ValueError(f"a target has the form module:attribute, found {self.target!r}")


@dataclass(frozen=True, eq=False)
class Var:
    """A value that is given when the graph is built.

    Attributes:
        name: Its name among the variables.
        default: What it is when not given, any value of a graph; ``REQUIRED`` for none.
        origin: Where it stands.
    """

    name: str
    default: Any = REQUIRED
    origin: Origin | None = None


@dataclass(frozen=True, eq=False)
class Calc:
    """Arithmetic over variables, evaluated when the graph is built.

    Attributes:
        expression: The arithmetic, such as ``int(max_steps * 0.1)``; :mod:`ironloom.config.calculate` defines it.
        origin: Where it stands.
    """

    expression: str
    origin: Origin | None = None


@dataclass(frozen=True)
class Step:
    """A value that something overrode later, and where it had come from. The value is plain data or text to show."""

    value: Any
    origin: Origin


@dataclass
class Graph:
    """A configuration: named targets and where everything came from.

    Attributes:
        root: Targets by name; ``main`` is the run.
        origins: Origin of every leaf by its path, and of nodes and containers where known. What is
            shared has the path of its first occurrence.
        earlier: What stood at a path before, oldest first: a default, a preset's or base template's value.
        keys: The user's own names for the value at a path, or for what it is made from, where these differ from the path.
    """

    root: dict[str, Any]
    origins: dict[Path, Origin] = field(default_factory=dict)
    earlier: dict[Path, list[Step]] = field(default_factory=dict)
    variables: dict[str, Origin] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    keys: dict[Path, tuple[str, ...]] = field(default_factory=dict)

    def origin(self, path: Path) -> Origin | None:
        """Where the value at ``path`` stands, or else the nearest thing around it."""
        for end in range(len(path), 0, -1):
            found = self.origins.get(path[:end])
            if found is not None:
                return found
        return None


def children(value: Any) -> Iterator[tuple[str | int, Any]]:
    """Key and value of everything directly inside a node, variable or container."""
    if isinstance(value, Node):
        yield from enumerate(value.args)
        yield from value.kwargs.items()
    elif isinstance(value, Var):
        if value.default is not REQUIRED:
            yield "default", value.default
    elif type(value) is dict:
        yield from value.items()
    elif type(value) in (list, tuple):
        yield from enumerate(value)


def is_leaf(value: Any) -> bool:
    """Whether ``value`` is neither node, variable, calculation nor container."""
    return not isinstance(value, (Node, Var, Calc)) and type(value) not in (dict, list, tuple)


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Path and value of everything in ``value``, parents first; what is shared, at its first path only."""
    seen: set[int] = set()
    stack: list[tuple[Path, Any]] = [(path, value)]
    while stack:
        path, value = stack.pop()
        if not is_leaf(value):
            if id(value) in seen:
                continue
            seen.add(id(value))
        yield path, value
        stack.extend(reversed([((*path, key), child) for key, child in children(value)]))


def is_plain(value: Any) -> bool:
    """Whether a value is known without building: there is no node, variable or calculation in it."""
    return not any(isinstance(part, (Node, Var, Calc)) for _, part in walk(value))


def occurrences(value: Any) -> dict[int, int]:
    """How often each node, variable and container stands in the text of ``value``, by identity.

    The empty tuple does not count: Python has only one of it.
    """
    counts: dict[int, int] = {}
    for _, parent in walk(value):
        for _, child in children(parent):
            if not is_leaf(child) and child != ():
                counts[id(child)] = counts.get(id(child), 0) + 1
    return counts


def dotted(path: Path) -> str:
    """A path as people write it: ``main.callbacks.0``."""
    return ".".join(map(str, path))


def target_parts(target: str) -> tuple[str, str]:
    """Module or file, and attributes, of a target; empty texts if it has not its form."""
    file, colon, attributes = target.rpartition(":")
    if file.endswith(".py") and file.startswith("/"):
        return file, attributes
    module, colon, attributes = target.partition(":")
    return (module, attributes) if colon and ":" not in attributes else ("", "")
