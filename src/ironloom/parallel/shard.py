"""Sharded weights: each process keeps a part of every block and gathers the rest when it is needed (``fully_shard``)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from ironloom.models.plan import blocks_of


@dataclass(frozen=True)
class Sharding:
    """How weights are kept and sent.

    Attributes:
        param_dtype: Type in which the weights of blocks are gathered; None for their own.
        reduce_dtype: Type in which gradients are summed.
        offload: Whether the parts are kept in host memory between their uses.
    """

    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype = torch.float32
    offload: bool = False


def shard(model: nn.Module, mesh: DeviceMesh, sharding: Sharding) -> None:
    """Shard the weights of each block, and what is left of the model as one more, in place.

    Gradients are summed over the mesh, not averaged.

    Args:
        model: Whole, or with its layers split already.
        mesh: One axis (shards), or two (copies, shards).
        sharding: Types and places.
    """
    offload: OffloadPolicy = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if sharding.offload else OffloadPolicy()
    # Inputs are left alone: what is computed in half precision is autocast's choice, as with one process.
    common: dict[str, Any] = {"reduce_dtype": sharding.reduce_dtype, "cast_forward_inputs": False}
    options: dict[str, Any] = {"mesh": mesh, "offload_policy": offload}
    # A view among the outputs may not be changed in place. Nothing here does that.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    for block in blocks_of(model).values():
        fully_shard(block, mp_policy=MixedPrecisionPolicy(sharding.param_dtype, **common), **options)
    # Embeddings in their own type, so that the sums between the blocks are as exact as with one process.
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**common), **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def reshard(model: nn.Module) -> None:
    """Leave to each process its part of the weights: some stay whole after a forward pass without a backward one."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
