"""The whole parallel recipe of a model, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights, is_waiting
from ironloom.models.plan import blocks_of, split_plan_of
from ironloom.parallel.gradients import broadcast_weights
from ironloom.parallel.mesh import Place
from ironloom.weights import sharded

if TYPE_CHECKING:
    from ironloom.parallel.context_apply import ContextParallel, Rotation
    from ironloom.parallel.sequence import SequenceSlices
    from ironloom.parallel.vocabulary import SplitVocabulary


@dataclass(frozen=True)
class Spread:
    """What became of a model.

    Attributes:
        is_sharded: Whether weights are in parts. If not, every process holds all of them and sums the gradients itself.
        context: The model's part in a context parallel group, if there is one.
        slices: Of sequences, if the processes that share layers divide what lies between these.
        vocabulary: The columns of the logits, if these processes divide them.
    """

    is_sharded: bool
    context: ContextParallel | None = None
    slices: SequenceSlices | None = None
    vocabulary: SplitVocabulary | None = None


def spread(
    model: nn.Module,
    place: Place,
    device: torch.device,
    param_dtype: torch.dtype | None = None,
    offload: bool = False,
    compiler: dict[str, Any] | None = None,
    *,
    reduce_dtype: torch.dtype = torch.float32,
    wrap: bool = False,
    sequence_parallel: bool = False,
    loss_parallel: bool = False,
    rotation: Rotation = "allgather",
) -> Spread:
    """Spread a model over the processes, in place. All start from the weights of the first.

    Args:
        model: Whole, in every process; or without weights yet (:mod:`ironloom.models.deferred`): then each process draws its part.
        place: Of this process.
        device: Of this process.
        param_dtype: Type in which sharded weights are gathered; None for their own.
        offload: Whether sharded weights stay in host memory.
        compiler: Options of ``torch.compile``, by which each block is compiled; None: not at all.
        reduce_dtype: Type in which the gradients of sharded weights are summed.
        wrap: Whether to shard where each shard is the whole, too.
        sequence_parallel: Whether the processes that share layers divide what lies between these by tokens.
        loss_parallel: Whether they divide the logits by tokens of the vocabulary.
        rotation: How the keys and values of a sequence go round among the processes that share it.

    Returns:
        What became of it.

    Raises:
        ConfigError: If the model cannot be spread so.
    """
    degrees = place.degrees
    if degrees.pp > 1:
        raise ConfigError("pipeline_parallel_size above 1 needs a trainer that cuts models into stages: Trainer or PipelineTrainer")
    is_sharded = degrees.dp_shard > 1 or degrees.tp > 1 or wrap or offload
    if any(sharded.is_sharded(parameter) for parameter in model.parameters()):
        raise ConfigError("the model was spread over these processes by another trainer: give this one a model of its own")
    waits = is_waiting(model)
    if not waits:
        give_weights(model, device)
        broadcast_weights(model, device)
    slices = vocabulary = None
    if degrees.tp > 1:
        from ironloom.parallel.tensor import split_layers

        plan, shared = split_plan_of(model), place.axes("tp")
        if not waits:
            model.to(device)
        if sequence_parallel:
            from ironloom.parallel.sequence import slice_sequences

            slices = slice_sequences(model, shared)
        split_layers(model, plan, shared, slices)
        if loss_parallel:
            from ironloom.parallel.vocabulary import split_vocabulary

            vocabulary = split_vocabulary(model, shared.get_group(), sums_later=sequence_parallel)
    context = None
    if degrees.cp > 1:
        from ironloom.parallel.context_apply import apply_context

        context = apply_context(model, place.group("cp"), rotation=rotation)
        if compiler is not None and rotation == "alltoall":
            # Nothing of the way round can be compiled, and the compiler would look at each piece of it.
            context.mix = torch.compiler.disable(context.mix)  # type: ignore[no-untyped-call]
    if compiler is not None:
        for block in blocks_of(model).values() or [model]:
            block.compile(**compiler)
    if is_sharded:
        from ironloom.parallel.shard import Sharding, shard

        # With split layers this is done for one shard too: then every weight is a DTensor, for one optimizer kernel.
        shard(model, place.shards(), Sharding(param_dtype, reduce_dtype, offload))
    if waits:
        give_weights(model, device, torch.device("cpu") if offload else None)
    elif not offload:
        model.to(device)
    return Spread(is_sharded, context, slices, vocabulary)
