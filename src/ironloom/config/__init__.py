"""Configuration: from a file to the object graph, to text, to live objects. Never imports torch."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ironloom.config import overrides as command_line
from ironloom.config import source, tagged
from ironloom.config.build import build
from ironloom.config.check import check
from ironloom.config.graph import Graph, Node, Var
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest
from ironloom.settings.groups import GROUPS

__all__ = ["Graph", "Node", "Var", "build", "check", "load", "style"]

_PYTHON = re.compile(r"(?s).*\.py(:[A-Za-z_]\w*)?\Z")
# What only a template holds: a line statement, or Jinja's delimiters outside a comment.
_STATEMENT = re.compile(r"^\s*(?:--|<<|>>|==|=>)\s", re.MULTILINE)
_JINJA = re.compile(r"^[^#\n]*(?:\{%|\{\{|\{#)", re.MULTILINE)


def load(path: str | pathlib.Path, overrides: Iterable[str] = (), arguments: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a configuration file, which is recognised by what it contains.

    Args:
        path: A configuration in groups, a template, a ``run.yaml``, or a Python file (``config.py:name`` picks one object).
        overrides: Overrides, ``group.key=value`` for groups, ``target.argument=value`` for the others.
        arguments: Values of the arguments that a template declares.

    Raises:
        ConfigError: With every problem that was found.
    """
    kind = style(path)
    if kind == "code":
        from ironloom.config import code

        return code.load(path, overrides)
    if kind == "groups":
        from ironloom.config import groups

        return groups.load(path, overrides)
    if kind == "tagged":
        from ironloom.config import projects

        graph = tagged.load(source.read_text(path), str(path))
        command_line.apply(graph, overrides)
        projects.use_modules(graph)
        return graph
    from ironloom.config import projects, templates

    graph = templates.load(path, projects.search_path(path), arguments or {}, overrides)
    return projects.complete(graph, path, arguments)


def style(path: str | pathlib.Path) -> str:
    """How a configuration is written: ``code``, ``groups``, ``templates`` or ``tagged`` (a ``run.yaml``).

    Raises:
        ConfigError: If the file cannot be read, or is none of these.
    """
    if _PYTHON.match(str(path)):
        return "code"
    text = source.read_text(path)
    if text.startswith(tagged.HEADER):
        return "tagged"
    is_template = _STATEMENT.search(text) is not None or _JINJA.search(text) is not None
    try:
        node = source.compose(text, str(path))
    except ConfigError:
        if is_template or re.search(r"^(?:main|trainer_args)\s*:", text, re.MULTILINE):
            return "templates"  # which knows better what is wrong
        raise
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else []
    has_targets = any(key in ("main", "trainer_args") for key in keys)
    if any(key in GROUPS for key in keys) and not has_targets:
        return "groups"
    if is_template or has_targets or (node is not None and tagged.is_tagged(node)):
        return "templates"
    if any(nearest(key, GROUPS) for key in keys):
        return "groups"
    hint = "its groups are " + ", ".join(GROUPS) + "; or it extends a template, or has a target main"
    raise ConfigError(Problem("is not a configuration", origin=Origin(str(path), 1, 1), hint=hint))
