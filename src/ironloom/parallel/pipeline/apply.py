"""The whole parallel recipe of a process's stages, in order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights, is_waiting
from ironloom.models.plan import blocks_of, split_plan_of
from ironloom.parallel.gradients import broadcast_weights
from ironloom.parallel.mesh import Place
from ironloom.parallel.pipeline.split import keep_stages
from ironloom.parallel.pipeline.stage import StagePlan

if TYPE_CHECKING:
    from ironloom.parallel.context_apply import ContextParallel, Rotation
    from ironloom.parallel.pipeline.sharded import ShardedWeights
    from ironloom.parallel.recompute import Strategy


@dataclass(frozen=True)
class SpreadStages:
    """What became of the model in a process.

    Attributes:
        sharded: Its weights, if they are in parts; None where the process has its stages' whole weights.
        context: The model's part in a context parallel group, if there is one.
    """

    sharded: ShardedWeights | None = None
    context: ContextParallel | None = None


def spread_stages(
    model: nn.Module,
    plans: Sequence[StagePlan],
    place: Place,
    device: torch.device,
    recompute: Strategy | None = None,
    offload: bool = False,
    compiler: dict[str, Any] | None = None,
    reduce_dtype: torch.dtype = torch.float32,
    rotation: Rotation = "allgather",
) -> SpreadStages:
    """Leave of a model what the stages of this process need, and spread that over the other axes of the mesh, in place.

    Args:
        model: Whole, in every process. All start from the weights of the first; where there are none yet
            (:mod:`ironloom.models.deferred`) each process draws those of its stages.
        plans: The stages of this process.
        place: Of this process.
        device: Of this process.
        recompute: What of each block is computed again in the backward pass; None: nothing.
        offload: Whether sharded weights stay in host memory.
        compiler: Options of ``torch.compile``, by which each block is compiled; None: not at all.
        reduce_dtype: Type in which the gradients of sharded weights are summed.
        rotation: How the keys and values of a sequence go round among the processes that share it.

    Raises:
        ConfigError: If the stages cannot be spread so.
    """
    degrees = place.degrees
    is_sharded = degrees.dp_shard > 1 or degrees.tp > 1 or offload
    if any("DTensor" in type(parameter.data).__name__ for parameter in model.parameters()):
        raise ConfigError("the model was spread over these processes by another trainer: give this one a model of its own")
    split = split_plan_of(model) if degrees.tp > 1 else None
    sizes = {path: _size(block) for path, block in blocks_of(model).items()}
    waits = is_waiting(model)
    if not waits:
        give_weights(model, device)
        broadcast_weights(model, device)
    keep_stages(model, plans)
    if not waits:
        model.to(device)
    blocks = {path: block for path, block in blocks_of(model).items() if _size(block)}
    if split is not None:
        from ironloom.parallel.tensor import split_layers

        parted = next((path for path, block in blocks.items() if _size(block) < sizes[path]), None)
        if parted is not None:
            raise ConfigError(f"a stage ends within {parted}, whose layers cannot be split then: cut between whole blocks in split_spec")
        split_layers(_only(blocks), split, place.axes("tp"))
    context = None
    if degrees.cp > 1:
        from ironloom.parallel.context_apply import apply_context

        context = apply_context(model, place.group("cp"), rotation=rotation)
    if recompute is not None:
        from ironloom.parallel.recompute import recompute_blocks

        recompute_blocks(model, recompute)
    if compiler is not None:
        if not sizes:
            raise ConfigError(f"{type(model).__name__} has no list of like blocks that could be compiled one by one: leave compiling out")
        for block in blocks.values():
            block.compile(**compiler)
    fill = functools.partial(give_weights, model, device, torch.device("cpu") if offload else None)
    if not is_sharded:
        fill()
        return SpreadStages(None, context)
    from ironloom.parallel.pipeline.sharded import ShardedWeights
    from ironloom.parallel.shard import Sharding

    # With split layers this is done for one shard too: then every weight is a DTensor, for one optimizer kernel.
    return SpreadStages(ShardedWeights(model, place.shards(), Sharding(None, reduce_dtype, offload), fill), context)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _only(blocks: dict[str, nn.Module]) -> nn.Module:
    """A module that has these blocks, and none whose weights another process has."""
    holder = nn.Module()
    holder.blocks = nn.ModuleList(blocks.values())
    return holder
