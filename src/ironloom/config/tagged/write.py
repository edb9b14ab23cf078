"""A graph to tagged YAML text. The same graph always gives the same text."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import yaml

from ironloom.config import scalars
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, children, dotted, is_leaf
from ironloom.errors import ConfigError, Problem

HEADER = "# Ironloom: a resolved configuration"


def dump(graph: Graph) -> str:
    """The graph as tagged YAML.

    Raises:
        ConfigError: For a leaf that is none of null, true/false, number, text (a live object).
    """
    stream = io.StringIO()
    writer = _Writer(graph)
    document = writer.node(graph.root, ())
    dumper = _Dumper(stream, writer.labels)
    dumper.open()
    dumper.serialize(document)
    dumper.close()
    return f"{HEADER}\n{stream.getvalue()}"


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer with our scalar rules and readable anchors."""

    yaml_implicit_resolvers = scalars.resolvers()

    def __init__(self, stream: io.StringIO, labels: dict[int, str]):
        super().__init__(stream, allow_unicode=True, width=sys.maxsize)
        self._labels = labels
        self._taken: set[str] = set()

    def generate_anchor(self, node: yaml.Node) -> str:
        """A unique anchor from the name or path of what is shared."""
        label = anchor = self._labels[id(node)]
        number = 1
        while anchor in self._taken:
            number += 1
            anchor = f"{label}-{number}"
        self._taken.add(anchor)
        return anchor

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the items of a list below their key."""
        super().increase_indent(flow, False)


class _Writer:
    """Values of a graph to YAML nodes; one object is one YAML node, which gets an anchor when it stands twice."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._made: dict[int, yaml.Node] = {}
        self.labels: dict[int, str] = {}

    def node(self, value: Any, path: Path) -> yaml.Node:
        """The YAML node of any value."""
        if is_leaf(value):
            return self._leaf(value, path)
        if value != () and id(value) in self._made:
            return self._made[id(value)]
        node = self._empty(value)
        if value != ():
            self._made[id(value)] = node
        name = value.name if isinstance(value, Node) and value.name else next((str(key) for key in reversed(path)), "root")
        self.labels[id(node)] = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        self._fill(node, value, path)
        return node

    def _empty(self, value: Any) -> yaml.Node:
        """The node without its children, so that what contains itself ends."""
        if isinstance(value, Node):
            tag = f"!{value.mode}:{value.target}" + (f"@{value.name}" if value.name else "")
            return yaml.MappingNode(tag, []) if value.kwargs else yaml.SequenceNode(tag, [], flow_style=not value.args)
        if isinstance(value, Calc):
            return yaml.ScalarNode("!calc", value.expression)
        if isinstance(value, Var):
            return yaml.ScalarNode("!var", value.name) if value.default is REQUIRED else yaml.MappingNode("!var", [])
        if type(value) is dict:
            return yaml.MappingNode(scalars.MAP, [], flow_style=not value)
        flat = all(is_leaf(child) and not (isinstance(child, str) and "\n" in child) for child in value)
        return yaml.SequenceNode(scalars.SEQ if type(value) is list else "!tuple", [], flow_style=flat)

    def _fill(self, node: yaml.Node, value: Any, path: Path) -> None:
        if isinstance(value, Node):
            args = [self.node(child, (*path, index)) for index, child in enumerate(value.args)]
            kwargs = self._pairs(value.kwargs, path)
            if not kwargs:
                node.value = args
            elif args or not set(value.kwargs) - {"args", "kwargs"}:
                both = [(self._text("args"), yaml.SequenceNode(scalars.SEQ, args))] if args else []
                node.value = [*both, (self._text("kwargs"), yaml.MappingNode(scalars.MAP, kwargs))]
            else:
                node.value = kwargs
        elif isinstance(value, Var):
            if value.default is not REQUIRED:
                default = self.node(value.default, (*path, "default"))
                node.value = [(self._text("name"), self._text(value.name)), (self._text("default"), default)]
        elif isinstance(value, Calc):
            return
        elif type(value) is dict:
            node.value = self._pairs(value, path)
        else:
            node.value = [self.node(child, (*path, index)) for index, child in children(value)]

    def _pairs(self, mapping: dict[Any, Any], path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
        return [(self._leaf(key, (*path, key)), self.node(child, (*path, key))) for key, child in mapping.items()]

    def _leaf(self, value: Any, path: Path) -> yaml.Node:
        try:
            tag, text = scalars.write(value)
        except TypeError as error:
            raise ConfigError(Problem(str(error), dotted(path), self._graph.origin(path))) from None
        return self._text(text) if tag == scalars.STR else yaml.ScalarNode(tag, text)

    def _text(self, text: str) -> yaml.Node:
        """A text, quoted where any reader of YAML might take it for something else."""
        if re.search(r"[\r\x85\u2028\u2029\t]", text):
            style: str | None = '"'  # line breaks that other styles would change
        elif scalars.ambiguous(text):
            style = "'"
        elif re.match(r"\S", text) and "\n" in text and not re.search(r" (\n|\Z)", text):
            style = "|"
        else:
            style = None
        return yaml.ScalarNode(scalars.STR, text, style=style)
