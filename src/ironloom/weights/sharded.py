"""Tensors of which each process holds a part (DTensors): their part, their place, their full values.

PyTorch's module of DTensors is only imported where one exists: it takes a second to load.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; the tensor itself where that is all of it."""
    part: torch.Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def place(tensor: Any) -> tuple[slice, ...]:
    """Where this process's part of a DTensor lies in the full tensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(shape) != tuple(tensor.to_local().shape):
        raise AssertionError(f"a part of shape {tuple(tensor.to_local().shape)} where PyTorch's layout says {tuple(shape)}")
    return tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))


def full_values(tensor: Any, source: int, rank: int) -> torch.Tensor | None:
    """The full values of a tensor, on the CPU, in the process ``source`` (and maybe in others); None elsewhere.

    Every process that holds a part calls this at the same time. Copies of the tensor of which ``source`` has no part
    stay out of it.

    Args:
        tensor: Plain, or a DTensor on a mesh of ranks of the whole run.
        source: Rank that must have the values.
        rank: This process.
    """
    if not is_sharded(tensor):
        return tensor.detach().cpu() if rank == source else None
    mesh = tensor.device_mesh
    found = (mesh.mesh == source).nonzero()
    if len(found) == 0:
        return None
    here, there = mesh.get_coordinate(), found[0].tolist()
    if any(placement.is_replicate() and here[axis] != there[axis] for axis, placement in enumerate(tensor.placements)):
        return None
    full = whole(tensor)
    return full.cpu() if rank == source else None


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor in every process, where the processes communicate: parts may be in host memory. A plain one is itself."""
    if not is_sharded(tensor):
        return tensor.detach()
    sharded: Any = tensor.detach()
    full: torch.Tensor = sharded.to(sharded.device_mesh.device_type).full_tensor()
    return full


def with_layout_of(target: Any, values: torch.Tensor) -> torch.Tensor:
    """A DTensor that has ``values`` everywhere, on the mesh of the DTensor ``target``."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = target.device_mesh
    return DTensor.from_local(values.to(target.device), mesh, [Replicate()] * mesh.ndim, run_check=False)


def copy_part(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy the full ``values`` into ``target``; into a DTensor the part that this process holds, which is not empty."""
    local_part(target).copy_(values[place(target)] if is_sharded(target) else values)


def from_part(target: Any, part: torch.Tensor) -> torch.Tensor:
    """A DTensor laid out like ``target``, of which this process holds ``part``."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part.to(target.device), target.device_mesh, target.placements, run_check=False, shape=target.shape, stride=target.stride()
    )
