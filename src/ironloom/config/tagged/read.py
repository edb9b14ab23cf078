"""Tagged YAML text to a graph, with the place of everything in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ironloom.config import scalars, source
from ironloom.config.graph import REQUIRED, Graph, Node, Path, Var, dotted, walk
from ironloom.config.validate import in_order
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

MODES = ("call", "factory", "partial")


def is_tagged(node: yaml.Node) -> bool:
    """Whether a YAML document uses tags of its own anywhere."""
    seen: set[int] = set()
    stack: list[Any] = [node]
    while stack:
        found = stack.pop()
        if isinstance(found, tuple):
            stack.extend(found)
        elif id(found) not in seen:
            seen.add(id(found))
            if found.tag.startswith("!"):
                return True
            if isinstance(found, yaml.CollectionNode):
                stack.extend(found.value)
    return False


def load(text: str, source_name: str) -> Graph:
    """The graph that tagged YAML describes, with line and column of everything in it.

    Raises:
        ConfigError: With every problem of the text: syntax, unknown tags, keys given twice.
    """
    node = source.compose(text, source_name)
    reader = _Reader(source_name)
    if not isinstance(node, yaml.MappingNode) or node.tag != scalars.MAP:
        raise ConfigError(Problem("expected a mapping of targets, such as main", origin=Origin(source_name, 1, 1)))
    root = {key: reader.value(child, (key,)) for key, child in reader.items(node, ())}
    for key in root:
        if not isinstance(key, str):
            reader.problems.append(Problem("the name of a target is a text", str(key), reader.keys[(key,)]))
    reader.names_once(root)
    if reader.problems:
        raise ConfigError(in_order(reader.problems))
    return Graph(root, {path: origin for path, origin in reader.values.items() if path})


class _Reader(source.Reader):
    """YAML nodes to values of a graph; an aliased node is one object."""

    def __init__(self, name: str):
        super().__init__(name)
        self._made: dict[int, Any] = {}
        self._active: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The graph value of a YAML node."""
        if id(node) in self._made:
            return self._made[id(node)]
        self.values[path] = self.origin(node)
        if id(node) in self._active:
            return self.wrong(node, path, "contains itself")
        self._active.add(id(node))
        made = self._new(node, path)
        self._active.discard(id(node))
        if not isinstance(node, yaml.ScalarNode) or node.tag.startswith("!"):
            self._made[id(node)] = made
        return made

    def _new(self, node: yaml.Node, path: Path) -> Any:
        kind, _, rest = node.tag[1:].partition(":") if node.tag.startswith("!") else ("", "", "")
        if kind in MODES:
            return self._node(node, path, kind, rest)
        if kind == "var" and not rest:
            return self._var(node, path)
        if kind == "tuple" and not rest and isinstance(node, yaml.SequenceNode):
            return tuple(self._items(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == scalars.SEQ:
            return self._items(node, path)
        if isinstance(node, yaml.MappingNode) and node.tag == scalars.MAP:
            return self._mapping(node, path)
        if isinstance(node, yaml.ScalarNode) and not kind:
            return self.scalar(node, path)
        near = nearest(kind, (*MODES, "var", "tuple"))
        return self.wrong(node, path, f"the tag {node.tag!r} has no meaning here", f"did you mean '!{near}'?" if near else "")

    def _items(self, node: yaml.Node, path: Path) -> list[Any]:
        return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        return {key: self.value(child, (*path, key)) for key, child in self.items(node, path)}

    def _node(self, node: yaml.Node, path: Path, mode: Any, spec: str) -> Any:
        target, _, name = spec.partition("@")
        if not re.fullmatch(r"[^:@\s]+:[^:@\s]+", target) or (name and not re.fullmatch(r"[\w.\-]+", name)):
            return self.wrong(node, path, f"expected !{mode}:module:attribute or !{mode}:module:attribute@name, found {node.tag!r}")
        args: tuple[Any, ...] = ()
        kwargs: dict[Any, Any] = {}
        if isinstance(node, yaml.SequenceNode):
            args = tuple(self._items(node, path))
        elif isinstance(node, yaml.MappingNode):
            both = self._both(node, path)
            if both is None:
                kwargs = self._mapping(node, path)
            else:
                args = tuple(self._items(both[0], path)) if both[0] else ()
                kwargs = self._mapping(both[1], path) if both[1] else {}
        elif node.value:
            return self.wrong(node, path, f"the arguments of {target} are a list or a mapping", f"write [{node.value}]")
        for key in kwargs:
            if not isinstance(key, str):
                self.wrong(node, (*path, key), "the name of an argument is a text")
        return Node(target, mode, args, kwargs, name or None, self.origin(node))

    def _both(self, node: yaml.MappingNode, path: Path) -> tuple[yaml.Node | None, yaml.MappingNode | None] | None:
        """The nodes of ``args`` and ``kwargs`` where a mapping is just these two, or one of them."""
        entries = dict(self.items(node, path))
        args, kwargs = entries.get("args"), entries.get("kwargs")
        if not entries or set(entries) - {"args", "kwargs"}:
            return None
        if args is not None and not (isinstance(args, yaml.SequenceNode) and args.tag == scalars.SEQ):
            return None
        if kwargs is not None and not (isinstance(kwargs, yaml.MappingNode) and kwargs.tag == scalars.MAP):
            return None
        return args, kwargs

    def _var(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.value:
            return Var(node.value, REQUIRED, self.origin(node))
        entries = dict(self.items(node, path)) if isinstance(node, yaml.MappingNode) else {}
        name = entries.get("name")
        if not isinstance(name, yaml.ScalarNode) or set(entries) - {"name", "default"}:
            return self.wrong(node, path, "expected !var name or !var {name: ..., default: ...}")
        default = self.value(entries["default"], (*path, "default")) if "default" in entries else REQUIRED
        return Var(name.value, default, self.origin(node))

    def names_once(self, root: Any) -> None:
        """A problem for every node whose name another one has."""
        first: dict[str, Node] = {}
        for path, value in walk(root):
            if isinstance(value, Node) and value.name is not None and first.setdefault(value.name, value) is not value:
                taken = f"the name {value.name!r} is taken by {first[value.name].origin}"
                self.problems.append(Problem(taken, dotted(path), value.origin))
