"""How the processes of a run share its work, as far as a graph says so. Never imports torch."""

from __future__ import annotations

import math
from typing import Any

from ironloom.config.graph import Graph, Node, is_plain
from ironloom.errors import ConfigError
from ironloom.settings.dream.device import Comm, DeviceParameters

PIPELINE = "ironloom.trainer:PipelineTrainer"


def device_parameters(graph: Graph) -> DeviceParameters | None:
    """The trainer's device parameters; None if it has none, or they are only known when they are built, or wrong."""
    node = argument(graph, "device_parameters")
    if not isinstance(node, Node):
        return None
    kwargs = {name: _built(value) for name, value in node.kwargs.items()}
    try:
        return DeviceParameters(**kwargs) if is_plain(kwargs) else None
    except (ConfigError, TypeError):
        return None


def _built(value: Any) -> Any:
    is_comm = isinstance(value, Node) and value.target.rpartition(":")[2] == "Comm" and not value.args and is_plain(value.kwargs)
    return dict(value.kwargs) if is_comm else value


def argument(graph: Graph, name: str) -> Any:
    """An argument of the run's trainer; None if it is not given."""
    main = graph.root.get("main")
    return main.kwargs.get(name) if isinstance(main, Node) else None


def communication(graph: Graph) -> Comm:
    """How processes talk, and how patient they are."""
    parameters = device_parameters(graph)
    return Comm() if parameters is None else parameters.comm


def sharing(graph: Graph, world: int) -> int:
    """How many processes work on the same samples, in a run of so many; 1 where that cannot be known."""
    parameters = device_parameters(graph)
    if parameters is None:
        return pipeline_size(graph, world) or 1
    sizes = (parameters.pipeline_parallel_size, parameters.context_parallel_size, parameters.tensor_parallel_size)
    known = math.prod(size for size in sizes if size != "auto")
    if "auto" not in sizes:
        return known
    return max(1, world // (parameters.data_parallel() or 1))


def pipeline_size(graph: Graph, world: int | None) -> int | None:
    """Processes of a pipeline that the arguments of a pipeline trainer ask for; None if it has no such trainer, or is not known."""
    main, args = graph.root.get("main"), argument(graph, "args")
    if not (isinstance(main, Node) and main.target == PIPELINE):
        return None
    size = args.kwargs.get("pipeline_parallel_size") if isinstance(args, Node) else None
    return size if isinstance(size, int) else world


def data_parallel(graph: Graph, world: int) -> int:
    """How many of so many processes read different samples."""
    return max(1, world // sharing(graph, world))
