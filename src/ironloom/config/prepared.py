"""Which nodes of a graph are data that are prepared by us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.config.graph import Graph, Node, walk

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
