"""Gradients of whole parameters, summed over the processes that each have a copy of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Bytes that are sent at once: enough that the start of a transfer is no matter, little enough that the next can be packed meanwhile.
BUCKET_BYTES = 25 * 2**20


def sum_gradients(
    parameters: Sequence[nn.Parameter],
    group: ProcessGroup,
    numbers: Sequence[float],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[float]:
    """Sum every gradient over a group, in place; a process that has none adds nothing.

    A parameter that no process has a gradient of is left without one, as it would be with one process.

    Args:
        parameters: The trained ones, in the same order everywhere.
        group: The processes.
        numbers: Further numbers to be summed on the way.
        device: Where the group communicates.
        dtype: Type in which gradients are summed; None for their own.

    Returns:
        The sums of ``numbers``.
    """
    import torch.distributed as dist

    present = [parameter.grad is not None for parameter in parameters]
    sums = torch.tensor([*numbers, *present], dtype=torch.float64, device=device)
    dist.all_reduce(sums, group=group)
    totals: list[float] = sums.tolist()
    trained = [parameter for parameter, count in zip(parameters, totals[len(numbers) :], strict=True) if count]
    pending = []
    for bucket in _buckets(reversed(trained)):
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket]).to(dtype)
        pending.append((bucket, flat, dist.all_reduce(flat, group=group, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        for parameter, part in zip(bucket, torch.split(flat, [parameter.numel() for parameter in bucket]), strict=True):
            _gradient(parameter).copy_(part.view_as(parameter))
    return totals[: len(numbers)]


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Runs of parameters of one dtype, each up to :data:`BUCKET_BYTES` or a single larger one."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        needed = parameter.numel() * parameter.element_size()
        if bucket and (size + needed > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += needed
    if bucket:
        yield bucket


@torch.no_grad()
def broadcast_weights(model: nn.Module, device: torch.device) -> None:
    """Give every process the weights and buffers of the first one, whatever each of them was initialised with."""
    import torch.distributed as dist

    for tensor in _distinct(model):
        there = tensor.detach().to(device).contiguous()
        dist.broadcast(there, src=0)
        if there.data_ptr() != tensor.data_ptr():
            tensor.copy_(there)


def _distinct(model: nn.Module) -> list[torch.Tensor]:
    """Each weight and buffer once, views of the same memory too."""
    return list({tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}.values())
