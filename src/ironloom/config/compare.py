"""What differs between two graphs in meaning: what is called, how, with what, and what is shared.

Order of keys, names, places, and whether a default is written out do not matter.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ironloom.config import static
from ironloom.config.defaults import canonical, defaults, settings_class
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, children, dotted, is_leaf, walk
from ironloom.errors import Origin
from ironloom.settings.base import Settings

Kind = Literal["value", "target", "mode", "missing", "extra", "sharing"]


@dataclass(frozen=True)
class Difference:
    """One difference between a left and a right graph.

    Attributes:
        path: Where it is, dotted.
        left: What stands there on the left; None if nothing does.
        right: What stands there on the right; None if nothing does.
        kind: ``value``, ``target``, ``mode``: what differs; ``missing``: only the left has it; ``extra``: only
            the right has it; ``sharing``: the objects are equal, but shared with others in different ways.
        left_origin: Where the left one came from.
        right_origin: Where the right one came from.
    """

    path: str
    left: Any
    right: Any
    kind: Kind
    left_origin: Origin | None = None
    right_origin: Origin | None = None


class _Absent:
    """Marks an argument or key that one side does not have."""

    def __repr__(self) -> str:
        return "ABSENT"


_ABSENT = _Absent()
DEFAULT = Origin("default", route="default")


def differences(left: Graph, right: Graph, names: Iterable[str] | None = None) -> list[Difference]:
    """Every difference in meaning, an empty list if there is none.

    Args:
        left: One graph.
        right: The other.
        names: Look only at what these targets are made of; None: at all targets.
    """
    found = _Comparison(left, right)
    chosen = list(dict.fromkeys([*left.root, *right.root])) if names is None else list(names)
    if names is None:
        chosen = [name for name in chosen if not (_is_second_name(left, right, name) or _is_second_name(right, left, name))]
    for name in chosen:
        found.compare(left.root.get(name, _ABSENT), right.root.get(name, _ABSENT), (name,))
    return found.differences


def _is_second_name(graph: Graph, other: Graph, name: str) -> bool:
    """Whether a target that only ``graph`` has is another name for a part of targets that both have."""
    if name in other.root or name not in graph.root or is_leaf(graph.root[name]):
        return False
    common = [value for key, value in graph.root.items() if key in other.root]
    return any(value is graph.root[name] for _, value in walk(common))


class _Comparison:
    """Two graphs side by side: what has been met, and what differs."""

    def __init__(self, left: Graph, right: Graph):
        self._graphs = (left, right)
        self._first: tuple[dict[int, Path], dict[int, Path]] = ({}, {})
        self._defaulted: tuple[set[Path], set[Path]] = (set(), set())  # places where nothing stands but a default holds
        self._alive: list[Any] = []  # defaults made here; their identities must stay theirs
        self.differences: list[Difference] = []

    def compare(self, left: Any, right: Any, path: Path) -> None:
        """Note every difference between two values that stand at the same place."""
        if left is _ABSENT or right is _ABSENT:
            if left is not right:
                self._note(path, left, right, "missing" if right is _ABSENT else "extra")
            return
        if is_leaf(left) and is_leaf(right):
            if not _equal(left, right):
                self._note(path, left, right, "value")
            return
        if _sort(left) != _sort(right):
            self._note(path, left, right, "value")
            return
        if not self._is_new(left, right, path):
            return
        if isinstance(left, Node):
            self._nodes(left, right, path)
        elif isinstance(left, Var):
            if left.name != right.name:
                self._note(path, left, right, "value")
            self.compare(_or_absent(left.default), _or_absent(right.default), (*path, "default"))
        elif isinstance(left, Calc):
            if not _same_expression(left.expression, right.expression):
                self._note(path, left, right, "value")
        else:
            self._parts(dict(children(left)), dict(children(right)), path)

    def _nodes(self, left: Node, right: Node, path: Path) -> None:
        if canonical(left.target) != canonical(right.target):
            self._note(path, left, right, "target")
            return
        if left.mode != right.mode:
            self._note(path, left, right, "mode")
        if "meta" in (left.mode, right.mode):  # its arguments are graphs as they are written
            self._parts(dict(children(left)), dict(children(right)), path)
        else:
            for node, defaulted in zip((left, right), self._defaulted, strict=True):
                defaulted.update((*path, key) for key in defaults(node.target) if key not in _given(node))
            self._parts(self._arguments(left), self._arguments(right), path)

    def _arguments(self, node: Node) -> dict[Any, Any]:
        """The arguments by name where the signature tells it, with the defaults of those that are not given."""
        found: dict[Any, Any] = {**defaults(node.target), **_given(node)}
        cls = settings_class(node.target)
        for key, value in found.items():
            inner = _nested(cls, str(key)) if cls is not None else None
            if inner is not None and type(value) is dict:
                # Settings inside settings may be written as a mapping; it means the same.
                found[key] = Node(inner, kwargs={str(name): part for name, part in value.items()})
                self._alive.append(found[key])
        self._alive.append(found)
        return found

    def _parts(self, left: Mapping[Any, Any], right: Mapping[Any, Any], path: Path) -> None:
        for key in dict.fromkeys([*left, *right]):
            self.compare(left.get(key, _ABSENT), right.get(key, _ABSENT), (*path, key))

    def _is_new(self, left: Any, right: Any, path: Path) -> bool:
        """Whether a pair has not been compared yet; notes when only one side has met its part before."""
        if left in ((), {}) and left == right:
            return False
        met = [table.setdefault(id(value), path) for table, value in zip(self._first, (left, right), strict=True)]
        if met == [path, path]:
            return True
        if met[0] == met[1]:
            return False
        if not _is_new_each_time(left):
            shown = [f"the same object as {dotted(first)}" if first != path else "an object of its own" for first in met]
            self._note(path, shown[0], shown[1], "sharing")
        return met[0] == path or met[1] == path

    def _note(self, path: Path, left: Any, right: Any, kind: Kind) -> None:
        origins = [
            DEFAULT if any(path[:end] in defaulted for end in range(1, len(path) + 1)) else graph.origin(path)
            for graph, defaulted in zip(self._graphs, self._defaulted, strict=True)
        ]
        sides = [None if value is _ABSENT else value for value in (left, right)]
        places = [None if value is _ABSENT else origin for value, origin in zip((left, right), origins, strict=True)]
        self.differences.append(Difference(dotted(path), sides[0], sides[1], kind, places[0], places[1]))


def _given(node: Node) -> dict[str | int, Any]:
    """The arguments that stand in the configuration, by name where the signature tells it."""
    positions = _positional(node)
    return {positions.get(key, key) if isinstance(key, int) else key: value for key, value in children(node)}


def _positional(node: Node) -> dict[int, str]:
    """Names of positional arguments; none for a partial, whose call may add positions after them."""
    if node.mode == "partial" or not node.args:
        return {}
    try:
        signature = static.signature(node.target)
    except (static.NotFoundError, SyntaxError):
        return {}
    if signature is None:
        return {}
    return {index: name for index, name in enumerate(signature.positional) if name in signature.keyword}


def _nested(cls: type[Settings], key: str) -> str | None:
    """The target of the settings class that a key of ``cls`` holds, if it is one."""
    annotation = typing.get_type_hints(cls).get(key)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return f"{annotation.__module__}:{annotation.__qualname__}"
    return None


def _sort(value: Any) -> str:
    if isinstance(value, (Node, Var, Calc)) or type(value) in (dict, list, tuple):
        return type(value).__name__
    return "leaf"


def _is_new_each_time(value: Any) -> bool:
    return isinstance(value, (Var, Calc)) or (isinstance(value, Node) and value.mode == "factory")


def _or_absent(default: Any) -> Any:
    return _ABSENT if default is REQUIRED else default


def _equal(left: Any, right: Any) -> bool:
    """Whether two leaves mean the same: numbers by value, but true is not 1; nan is nan."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right) or (left != left and right != right)


def _same_expression(left: str, right: str) -> bool:
    try:
        return ast.dump(ast.parse(left, mode="eval")) == ast.dump(ast.parse(right, mode="eval"))
    except SyntaxError:
        return left == right


def report(found: Iterable[Difference]) -> Iterator[str]:
    """One line for each difference, with both places."""
    from ironloom.config.views.tree import headline

    for difference in found:
        sides = []
        for value, origin in ((difference.left, difference.left_origin), (difference.right, difference.right_origin)):
            text = value if difference.kind == "sharing" else headline(value)
            sides.append(f"{text}" + (f" ({origin})" if origin else ""))
        if difference.kind == "missing":
            yield f"{difference.path}: {sides[0]} only on the left"
        elif difference.kind == "extra":
            yield f"{difference.path}: {sides[1]} only on the right"
        else:
            yield f"{difference.path}: {sides[0]} -> {sides[1]}"
