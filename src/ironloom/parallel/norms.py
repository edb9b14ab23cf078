"""The norm of tensors that lie on different meshes, or on none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def total_norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """L2 norm of all tensors together, each counted once however it is spread.

    Args:
        tensors: Plain ones, equal in all processes, or DTensors on any meshes.

    Returns:
        A plain scalar, the same in all processes that share the meshes.
    """
    from torch.distributed.tensor import DTensor

    kinds: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        kind = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None
        kinds.setdefault(kind, []).append(tensor)
    squares = [_square(alike, kind) for kind, alike in kinds.items()]
    return torch.stack(squares).sum().sqrt() if squares else torch.tensor(0.0)


def _square(tensors: list[torch.Tensor], kind: Any) -> torch.Tensor:
    """Sum of the squares of tensors that are spread alike. By hand: DTensor warns of each reduction over two axes."""
    import torch.distributed as dist

    square = nn.utils.get_total_norm([local(tensor).detach() for tensor in tensors]).square()
    if kind is not None:
        mesh, placements = kind
        square = square.to(mesh.device_type)  # where the processes communicate; the tensors may be offloaded
        for axis, placement in enumerate(placements):
            assert not placement.is_partial(), "weights and gradients are whole or in parts, never terms of a sum"
            if not placement.is_replicate() and mesh.size(axis) > 1:
                dist.all_reduce(square, group=mesh.get_group(axis))
    return square


@torch.no_grad()
def scale(tensors: Iterable[torch.Tensor], max_norm: float, norm: float) -> None:
    """Multiply in place by ``max_norm / norm``, as ``torch.nn.utils.clip_grads_with_norm_`` does."""
    factor = min(1.0, max_norm / (norm + 1e-6)) if math.isfinite(norm) else 1.0
    torch._foreach_mul_([local(tensor) for tensor in tensors], factor)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a DTensor; any other tensor itself."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
