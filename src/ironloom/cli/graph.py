"""``ironloom graph``: the object graph in several forms. Never imports torch."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, part, show
from ironloom.config.graph import Graph


class Format(Enum):
    """The forms of a graph."""

    tree = "tree"
    dot = "dot"
    yaml = "yaml"
    python = "python"


def graph(
    words: ConfigurationWords,
    form: Annotated[Format, typer.Option("--format", help="tree; dot for Graphviz; yaml; python.")] = Format.tree,
) -> None:
    """Show the object graph of a configuration, or of one of its targets.

    Example: ironloom graph examples/quickstart.yaml --format dot
    """
    whole, found = load(words, others=1, own=["--format"])
    show(text(part(whole, found.others[0] if found.others else None), form))


def text(graph: Graph, form: Format) -> str:
    """The graph in one form."""
    if form is Format.yaml:
        from ironloom.config import tagged

        return tagged.dump(graph)
    if form is Format.dot:
        from ironloom.config.views import dot

        return dot.dump(graph)
    if form is Format.python:
        from ironloom.config.views import python

        return python.dump(graph)
    from ironloom.config.views import tree

    return tree.dump(graph)
