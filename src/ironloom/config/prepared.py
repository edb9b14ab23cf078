"""Which nodes of a graph are data that are prepared by us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.config.graph import Graph, Node, walk

DATA = ("ironloom.data:PretrainData", "ironloom.data:SFTData")


def is_data(value: Any) -> bool:
    """Whether a value of a graph is a node of such data."""
    return isinstance(value, Node) and value.target in DATA


def data_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph that are such data."""
    return (value for _, value in walk(graph.root) if is_data(value))
