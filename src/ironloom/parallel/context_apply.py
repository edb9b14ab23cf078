"""Context parallelism on a model: its attention reaches over all processes that share a sequence, the rest stays local.

How an engine uses it, on every rank of the ``cp`` axis, with the same whole batch::

    context = apply_context(model, place.group("cp"))   # before compiling and sharding
    with context.running():                             # forward and backward: activation checkpointing runs forward twice
        part = context.split(batch, objective)          # on the device of the batch
        loss_sum, outputs = objective(model, part, total)
        (loss_sum / total).backward()
    logits = context.join(outputs.logits)               # only where the logits of the whole sequence are wanted

``loss_sum`` and gradients are those of the local tokens: what is wanted is their sum over the data and ``cp`` axes. The weight of the
whole batch is known on every rank, so weights are summed over the data axes alone. Dropout is drawn by each rank for its own
tokens: the random key of a step needs the rank in ``cp`` beside the data rank. Outside of ``running()`` a model is
the one that it was, so that one rank alone can generate.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ironloom.errors import ConfigError, DataError
from ironloom.models.attention import Attention, attend
from ironloom.models.decoder import Decoder
from ironloom.models.documents import Documents, find_documents
from ironloom.objectives import Objective
from ironloom.parallel.context import Layout, Order
from ironloom.parallel.context_attention import attend_gathered
from ironloom.parallel.context_batch import in_order, split_batch
from ironloom.parallel.context_ring import attend_ring

#: Families of transformers that are compared with one process by the tests. Others may mix tokens outside of their attention
#: (convolutions, recurrences), or want masks that cannot be told from the arguments of the attention.
FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")

#: How keys and values reach the queries: all at once to every process, or one process's after the other's, in a ring.
Rotation = Literal["allgather", "alltoall"]
_WAYS: dict[Rotation, Callable[..., Tensor]] = {"allgather": attend_gathered, "alltoall": attend_ring}


@dataclass
class ContextParallel:
    """A model's part in a context parallel group, made by :func:`apply_context`.

    Attributes:
        group: The processes that share each sequence.
        layout: Who of them holds what.
        model: The model. Its attention was replaced; its weights were not touched.
        mix: Attends over the group; how keys and values go round is its choice.
        max_length: Positions that the model has learned, if it is not indifferent to the length.
        is_running: Whether attention is over the group now.
    """

    group: dist.ProcessGroup
    layout: Layout
    model: nn.Module
    mix: Callable[..., Tensor] = attend_gathered
    max_length: int | None = None
    is_running: bool = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """What the model computes in here, forward and backward, it computes together with the other ranks."""
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False

    def split(self, batch: Mapping[str, Any], objective: Objective | None = None) -> dict[str, Any]:
        """This rank's part of a batch that all ranks of the group have; see :func:`~ironloom.parallel.context_batch.split_batch`.

        Raises:
            DataError: If the sequence cannot be divided, or is longer than the positions that the model has.
            ConfigError: If the objective's loss cannot be summed over parts.
        """
        is_own = isinstance(self.model, Decoder)
        part = split_batch(batch, self.layout, objective, sees_itself=is_own)
        length = part["position_ids"].shape[1] * self.layout.size
        if self.max_length is not None and length > self.max_length:
            raise DataError(
                f"a sequence of {length} tokens is longer than the {self.max_length} positions that the model has learned: "
                "shorten it, or train a model with more positions"
            )
        return part

    @torch.no_grad()
    def join(self, part: Tensor, dim: int = 1) -> Tensor:
        """The whole of a tensor of which each rank has the part of its tokens, without a gradient; every rank calls this."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.layout.size)]
        dist.all_gather(parts, part, group=self.group)
        return in_order(parts, self.layout, dim)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, window: int | None = None
    ) -> Tensor:
        """In the place of :func:`ironloom.models.attention.attend`."""
        if not self.is_running:
            return attend(queries, keys, values, mask, dropout, window)
        heads = (queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
        return self.mix(*heads, layout=self.layout, group=self.group, mask=mask, dropout=dropout, window=window)

    def separate(self, position_ids: Tensor, rows: int, as_mask: bool = False) -> Tensor | Documents | None:
        """In the place of :func:`ironloom.models.documents.find_documents`: parts of sequences come with the mask that they need."""
        return None if self.is_running else find_documents(position_ids, rows, as_mask)


def apply_context(model: nn.Module, group: dist.ProcessGroup, order: Order = "zigzag", rotation: Rotation = "allgather") -> ContextParallel:
    """Let a model's attention reach over the processes of a group.

    Args:
        model: The built-in decoder, or a causal language model of ``transformers`` of one of :data:`FAMILIES`. Not compiled yet.
        group: The processes that share each sequence.
        order: How sequences are cut; see :mod:`ironloom.parallel.context`.
        rotation: How keys and values go round: ``allgather`` is one exchange and PyTorch's kernels, ``alltoall`` needs no memory for
            the keys of the whole sequence.

    Raises:
        ConfigError: If the model is another one, or has layers whose attention is neither full nor a sliding window.
    """
    context = ContextParallel(group, Layout(dist.get_world_size(group), dist.get_rank(group), order), model, _WAYS[rotation])
    library = sys.modules.get("transformers")
    if isinstance(model, Decoder):
        positions = model.model.embed_positions
        context.max_length = None if positions is None else positions.max_seq_len
        model.model.separate = context.separate
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = context.attend
    elif library is not None and isinstance(model, library.PreTrainedModel):
        _register(model, context)
    else:
        raise ConfigError(
            f"context parallelism does not know the attention of {type(model).__name__}: use the built-in decoder or a transformers "
            f"model of {', '.join(FAMILIES)}, or set context_parallel_size to 1"
        )
    return context


def _register(model: Any, context: ContextParallel) -> None:
    """Name attention and masks in the registries of ``transformers``, and let the model use that name.

    The name is not saved with the model: ``transformers`` leaves it out of ``config.json``.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    config = model.config
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    reasons = {
        f"a model of type {config.model_type!r}": config.model_type not in FAMILIES,
        "cross attention": config.is_encoder_decoder or getattr(config, "add_cross_attention", False),
        "attention in both directions": not getattr(config, "is_causal", True),
        f"layers of {', '.join(kinds)}": bool(kinds),
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise ConfigError(
            f"context parallelism cannot be used with {reason}: causal decoders of type {', '.join(FAMILIES)} have been compared with "
            "one process; use one of them or the built-in decoder, or set context_parallel_size to 1"
        )
    if config.model_type == "gpt2":
        context.max_length = config.n_positions
    name = f"ironloom_context_{id(context)}"
    AttentionInterface.register(name, functools.partial(_attention, context))
    AttentionMaskInterface.register(name, functools.partial(_mask, context))
    model.set_attn_implementation(name)


def _attention(
    context: ContextParallel,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function of ``transformers``: heads ``[B, H, L, D]`` in, ``[B, L, H, D]`` out."""
    if not context.is_running:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **others
        )[0]
        return mixed, None
    options: dict[str, Any] = {"mask": attention_mask, "dropout": dropout, "scale": scaling, "window": sliding_window}
    mixed = context.mix(query, key, value, layout=context.layout, group=context.group, **options)
    return mixed.transpose(1, 2).contiguous(), None


def _mask(context: ContextParallel, *arguments: Any, **options: Any) -> Tensor | None:
    """A mask function of ``transformers``, which calls it where the batch has no mask of four dimensions."""
    if context.is_running:
        return None
    from transformers.masking_utils import sdpa_mask

    mask: Tensor | None = sdpa_mask(*arguments, **options)
    return mask
