"""Tagged YAML text to a graph, with the place of everything in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ironloom.config import scalars, source
from ironloom.config.graph import REQUIRED, Calc, Graph, Mode, Node, Path, Var, dotted, walk
from ironloom.config.validate import in_order
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

MODES: dict[str, Mode] = {"call": "call", "factory": "factory", "partial": "partial", "meta": "meta"}
_TARGET = re.compile(r"(?:/[^@]*\.py|[^:@\s]+):[^:@\s]+")


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
    return Reader(source_name).graph(source.compose(text, source_name))


class Reader(source.Reader):
    """YAML nodes to values of a graph; an aliased node is one object.

    Attributes:
        modes: What the tags of nodes mean.
    """

    modes: Mapping[str, Mode] = MODES

    def __init__(self, name: str):
        super().__init__(name)
        self._made: dict[int, Any] = {}
        self._active: set[int] = set()

    def graph(self, node: yaml.Node | None) -> Graph:
        """The graph of a document.

        Raises:
            ConfigError: With every problem.
        """
        if not isinstance(node, yaml.MappingNode) or node.tag != scalars.MAP:
            where = self.origin(node) if node is not None else Origin(self.source, 1, 1)
            raise ConfigError(Problem("expected a mapping of targets, such as main", origin=where))
        root = self.root(node)
        for key in root:
            if not isinstance(key, str):
                self.problems.append(Problem("the name of a target is a text", str(key), self.keys[(key,)]))
        self.names_once(root)
        if self.problems:
            raise ConfigError(in_order(self.problems))
        return Graph(root, {path: origin for path, origin in self.values.items() if path})

    def root(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """The targets of a document."""
        return {key: self.value(child, (key,)) for key, child in self.items(node, ())}

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The graph value of a YAML node."""
        if id(node) in self._made:
            return self._made[id(node)]
        self.values[path] = self.origin(node)
        if id(node) in self._active:
            return self.wrong(node, path, "contains itself")
        self._active.add(id(node))
        made = self.new(node, path)
        self._active.discard(id(node))
        if not isinstance(node, yaml.ScalarNode) or node.tag.startswith("!"):
            self._made[id(node)] = made
        return made

    def new(self, node: yaml.Node, path: Path) -> Any:
        """The value of a YAML node that was not met before."""
        kind, rest = tag_of(node)
        if kind in self.modes:
            return self.node(node, path, kind, rest)
        if kind == "var" and not rest:
            return self._var(node, path)
        if kind == "calc" and not rest and isinstance(node, yaml.ScalarNode):
            return Calc(node.value, self.origin(node))
        if kind == "tuple" and not rest and isinstance(node, yaml.SequenceNode):
            return tuple(self.sequence(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == scalars.SEQ:
            return self.sequence(node, path)
        if isinstance(node, yaml.MappingNode) and node.tag == scalars.MAP:
            return self.mapping(node, path)
        if isinstance(node, yaml.ScalarNode) and not kind:
            return self.scalar(node, path)
        near = nearest(kind, self.tags())
        return self.wrong(node, path, f"the tag {node.tag!r} has no meaning here", f"did you mean '!{near}'?" if near else "")

    def tags(self) -> list[str]:
        """The tags that have a meaning."""
        return [*self.modes, "var", "calc", "tuple"]

    def sequence(self, node: yaml.SequenceNode, path: Path) -> list[Any]:
        """The values of a sequence."""
        return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        """The values of a mapping."""
        return {key: self.value(child, (*path, key)) for key, child in self.items(node, path)}

    def node(self, node: yaml.Node, path: Path, kind: str, spec: str) -> Any:
        """A node of the graph; ``spec`` is what follows the kind in its tag."""
        target, _, name = spec.partition("@")
        if not _TARGET.fullmatch(target) or (name and not re.fullmatch(r"[\w.\-]+", name)):
            return self.wrong(node, path, f"expected !{kind}:module:attribute or !{kind}:module:attribute@name, found {node.tag!r}")
        if isinstance(node, yaml.ScalarNode) and node.value:
            return self.wrong(node, path, f"the arguments of {target} are a list or a mapping", f"write [{node.value}]")
        args, kwargs = self.arguments(node, path)
        return Node(target, self.modes[kind], args, kwargs, name or None, self.origin(node))

    def arguments(self, node: yaml.Node, path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments that a sequence or mapping stands for."""
        args: tuple[Any, ...] = ()
        kwargs: dict[Any, Any] = {}
        if isinstance(node, yaml.SequenceNode):
            args = tuple(self.sequence(node, path))
        elif isinstance(node, yaml.MappingNode):
            both = self.both(node, path)
            if both is None:
                kwargs = self.mapping(node, path)
            else:
                args = tuple(self.sequence(both[0], path)) if both[0] else ()
                kwargs = self.mapping(both[1], path) if both[1] else {}
        for key in kwargs:
            if not isinstance(key, str):
                self.wrong(node, (*path, key), "the name of an argument is a text")
        return args, kwargs

    def both(self, node: yaml.MappingNode, path: Path) -> tuple[yaml.SequenceNode | None, yaml.MappingNode | None] | None:
        """The nodes of ``args`` and ``kwargs`` where a mapping is just these two, or one of them."""
        entries = dict(self.items(node, path))
        args, kwargs = entries.get("args"), entries.get("kwargs")
        if not entries or set(entries) - {"args", "kwargs"}:
            return None
        if args is not None and not (isinstance(args, yaml.SequenceNode) and self.is_plain_tag(args)):
            return None
        if kwargs is not None and not (isinstance(kwargs, yaml.MappingNode) and self.is_plain_tag(kwargs)):
            return None
        return args, kwargs

    def is_plain_tag(self, node: yaml.Node) -> bool:
        """Whether a sequence or mapping is no more than that."""
        return node.tag in (scalars.SEQ, scalars.MAP)

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


def tag_of(node: yaml.Node) -> tuple[str, str]:
    """Kind and rest of a tag of our own, ``!kind:rest``; empty for others."""
    kind, _, rest = node.tag[1:].partition(":") if node.tag.startswith("!") else ("", "", "")
    return kind, rest
