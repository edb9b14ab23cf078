"""The weights of stages in parts: gathered for the micro-batches of a step, their gradients summed once after them.

``fully_shard`` lays the weights out, gathers them and reduces their gradients, block by block, as it does without a pipeline.
Only its hooks on forward and backward are taken off: a stage is entered and left in the middle of the model, and schedules
that compute gradients of inputs and of weights apart go round the hooks. Between the chunks of a step nothing is sent, so a
process that has no samples in a step need not compute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ironloom.parallel.shard import Sharding, shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ShardedWeights:
    """The weights that this process holds parts of. Every method is collective over the mesh.

    Args:
        model: Holds the parameters of this process's stages and no others.
        mesh: One axis (shards), or two (copies, shards).
        sharding: How they are kept and sent. They are gathered in their own type: gradients of several chunks are added up
            before they are reduced.
        fill: Gives memory and values to weights that have none yet, once they are in parts.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, sharding: Sharding, fill: Callable[[], None]):
        shard(model, mesh, sharding)
        fill()
        self._model = model
        self._units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for unit in self._units:
            state = fully_shard.state(unit)  # type: ignore[attr-defined]
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
        self._root = fully_shard.state(model)  # type: ignore[attr-defined]
        self._root._lazy_init()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it the model has whole weights, plain or split by tensor parallelism; behind it, its parts again."""
        handles = [unit.unshard(async_op=True) for unit in self._units]
        for handle in handles:
            assert handle is not None, "an asynchronous gathering has a handle"
            handle.wait()
        try:
            yield
        finally:
            for unit in self._units:
                unit.reshard()

    def reduce(self, group: ProcessGroup, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Sum the gradients of the whole weights into those of the parts; within :meth:`gathered`, which this ends.

        A parameter that no process has a gradient of is left without one.

        Args:
            group: The processes of the mesh.
            numbers: Further numbers to be summed on the way.
            device: Where the group communicates.

        Returns:
            The sums of ``numbers``.
        """
        import torch.distributed as dist

        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        present = [parameter.grad is not None for parameter in trained]
        sums = torch.tensor([*numbers, *present], dtype=torch.float64, device=device)
        dist.all_reduce(sums, group=group)
        totals: list[float] = sums.tolist()
        for parameter, count in zip(trained, totals[len(numbers) :], strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # What PyTorch's own stages call when their last chunk has gone backward.
        self._root._root_post_backward_final_callback()
        return totals[: len(numbers)]
