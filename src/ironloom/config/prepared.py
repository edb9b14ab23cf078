"""Which nodes of a graph are data that are prepared by us, and what of them is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ironloom.config.graph import Graph, Node, dotted, walk
from ironloom.errors import Problem
from ironloom.settings.data import LISTS
from ironloom.settings.parts import looks_local, source_of

DATA = ("ironloom.data:PretrainData", "ironloom.data:SFTData", "ironloom.data:DPOData")


def is_data(value: Any) -> bool:
    """Whether a value of a graph is a node of such data."""
    return isinstance(value, Node) and value.target in DATA


def data_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph that are such data."""
    return (value for _, value in walk(graph.root) if is_data(value))


def asked_of(graph: Graph) -> set[str]:
    """The attributes of such data that a graph asks for, such as ``train``."""
    nodes = (value for _, value in walk(graph.root) if isinstance(value, Node) and value.target == "ironloom.config.targets:attribute")
    return {str(node.args[1]) for node in nodes if len(node.args) == 2 and is_data(node.args[0])}


def missing_files(graph: Graph) -> Iterator[Problem]:
    """Files and folders that such data name and that are not there."""
    for path, node in walk(graph.root):
        for key in LISTS if is_data(node) else ():
            entries = node.kwargs.get(key)
            for index, entry in enumerate(entries if isinstance(entries, list) else ()):
                source = source_of(entry) if isinstance(entry, str | Mapping) else ""
                if looks_local(source) and not Path(source).expanduser().exists():
                    place = (*path, key, index)
                    yield Problem(f"{source}: no such file or folder", dotted(place), graph.origin(place))
