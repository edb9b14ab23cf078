"""Configuration: from a file to the object graph, to text, to live objects. Never imports torch."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable

import yaml

from ironloom.config import groups, source, tagged
from ironloom.config import overrides as command_line
from ironloom.config.build import build
from ironloom.config.check import check
from ironloom.config.graph import Graph, Node, Var
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.groups import GROUPS

__all__ = ["Graph", "Node", "Var", "build", "check", "load"]

_LINE_STATEMENT = re.compile(r"^\s*(?:(?:--|<<|>>|==|=>) |\{%)", re.MULTILINE)


def load(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Graph:
    """The graph of a configuration file, which is recognised by what it contains.

    Args:
        path: A grouped configuration, or a ``run.yaml``.
        overrides: Overrides, ``group.key=value`` for groups, ``target.argument=value`` for a ``run.yaml``.

    Raises:
        ConfigError: With every problem that was found.
    """
    if pathlib.Path(path).suffix == ".py":
        raise ConfigError(Problem("configurations in Python are not available yet", origin=Origin(str(path)), hint="write YAML"))
    text = source.read_text(path)
    node = _document(text, str(path))
    if node is not None and tagged.is_tagged(node):
        graph = tagged.load(text, str(path))
        command_line.apply(graph, overrides)
        return graph
    if not isinstance(node, yaml.MappingNode):
        hint = "its groups are " + ", ".join(GROUPS)
        raise ConfigError(Problem("is not a configuration", origin=Origin(str(path), 1, 1), hint=hint))
    return groups.load(path, overrides)


def _document(text: str, name: str) -> yaml.Node | None:
    """The YAML document, or an error that says so if the text is a template."""
    statement = _LINE_STATEMENT.search(text)
    try:
        node = source.compose(text, name)
    except ConfigError:
        if statement is None:
            raise
        node = None
    if statement is not None and not isinstance(node, yaml.MappingNode):
        line = text.count("\n", 0, statement.end()) + 1
        raise ConfigError(Problem("templates are not available yet", origin=Origin(name, line, 1), hint="write groups"))
    return node
