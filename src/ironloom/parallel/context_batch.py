"""A batch of whole sequences to the part of one context parallel rank. No process group: a layout is enough.

Labels are shifted before they are cut, so that the last token of each chunk keeps its target, which is the first token of
the next chunk and may lie on another rank. Every token carries its position. What a token may look at is
stated for the local queries and all keys, as a mask of four dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironloom.errors import ConfigError, DataError
from ironloom.models.documents import number_documents
from ironloom.objectives import IGNORE_INDEX, CrossEntropy, Objective
from ironloom.objectives.weighted import LOSS_WEIGHTS
from ironloom.parallel.context import Layout

#: What is cut along its second dimension; labels, positions and masks have rules of their own.
TOKEN_KEYS = ("input_ids", "inputs_embeds", "token_type_ids")


def local_part(whole: Tensor, layout: Layout, dim: int = 1) -> Tensor:
    """The chunks of this rank, cut from a tensor along ``dim``."""
    parts = [whole.narrow(dim, start, end - start) for start, end in layout.pieces(whole.shape[dim])]
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def in_order(parts: Sequence[Tensor], layout: Layout, dim: int = 1) -> Tensor:
    """The reverse of :func:`local_part`: the parts of all ranks, by rank, become the whole."""
    per_rank = [part.chunk(len(layout.chunks_of(0)), dim) for part in parts]
    return torch.cat([per_rank[rank][place] for rank, place in map(layout.holder, range(layout.multiple))], dim)


def check_objective(objective: Objective) -> CrossEntropy:
    """The objective, if its sum over a sequence is the sum over the sequence's parts.

    Raises:
        ConfigError: If it is a user's function or the model's own loss, which would shift the labels of each part for
            itself, or has terms that are no sums over tokens.
    """
    if not isinstance(objective, CrossEntropy):
        raise ConfigError(
            f"context parallelism cuts sequences, and {type(objective).__name__} computes its loss from whole ones: "
            "leave compute_loss_func (or compute_loss) out, so that the built-in cross entropy is used, or set context_parallel_size to 1"
        )
    reasons = {
        "the model is an encoder-decoder": objective.make_decoder_inputs is not None,
        "the model's forward cannot be called without labels": objective.keep_labels,
        "the load-balancing loss of experts is no sum over tokens": bool(objective.aux_coefficient),
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise ConfigError(f"context parallelism cannot be used with this model: {reason}; set context_parallel_size to 1")
    return objective


def split_batch(
    batch: Mapping[str, Any],
    layout: Layout,
    objective: Objective | None = None,
    sees_itself: bool = True,
) -> dict[str, Any]:
    """The part of a batch that this rank computes.

    Args:
        batch: The same whole batch on every rank of the group: ``input_ids`` or ``inputs_embeds`` ``[B, S, ...]``, and whatever
            else of ``labels``, ``shift_labels``, ``loss_weights``, ``position_ids``, ``token_type_ids``, ``attention_mask`` ``[B, S]``
            there is; the mask may be boolean ``[B, 1, S, S]``: what each query sees. Where ``position_ids`` start again and there is
            no mask, a new document begins, and no token sees another document; see :mod:`ironloom.models.documents`.
        layout: Who holds what.
        objective: What the batch is for; None if it is not trained or evaluated on, and has no labels.
        sees_itself: Padding looks at itself, as in the built-in decoder; else, as in ``transformers``, at nothing.

    Returns:
        The same keys with S / size tokens, ``shift_labels`` for ``labels`` that were to be shifted, ``position_ids`` always, and a
        boolean ``attention_mask`` ``[B, 1, S / size, S]`` only where causal attention is not enough.

    Raises:
        DataError: If S cannot be divided, or a tensor is of a kind that this function cannot cut.
        ConfigError: If the objective's loss cannot be summed over parts.
    """
    tokens = next((batch[key] for key in TOKEN_KEYS[:2] if batch.get(key) is not None), None)
    if tokens is None:
        raise DataError(f"context parallelism needs 'input_ids' in a batch, which has only {', '.join(map(repr, batch))}")
    size, length = tokens.shape[:2]
    part: dict[str, Any] = {}
    whole = _with_targets(batch, objective)
    targets = {"shift_labels", LOSS_WEIGHTS} | (set() if objective is None else {check_objective(objective).labels_key})
    for name, value in whole.items():
        if name in TOKEN_KEYS or name in targets:
            part[name] = value if value is None else local_part(_checked(name, value, (size, length)), layout)
        elif name not in ("attention_mask", "position_ids"):
            part[name] = _uncut(name, value, length)
    positions, padding = whole.get("position_ids"), whole.get("attention_mask")
    documents = None
    if positions is None:
        positions = torch.arange(length, device=tokens.device).expand(size, length)
    elif padding is None:
        documents = _documents(positions)
    part["position_ids"] = local_part(_checked("position_ids", positions, (size, length), exactly=True), layout)
    if padding is not None and padding.dtype is torch.bool and padding.shape[1:] == (1, length, length):
        part["attention_mask"] = local_part(padding, layout, dim=2)
        return part
    if padding is not None and bool(_checked("attention_mask", padding, (size, length), exactly=True).all()):
        padding = None
    if padding is not None or documents is not None:
        part["attention_mask"] = _visible(tokens, padding, documents, layout, sees_itself)
    return part


def _with_targets(batch: Mapping[str, Any], objective: Objective | None) -> dict[str, Any]:
    """The batch with targets at their tokens: labels that are to be shifted have become ``shift_labels``."""
    whole = dict(batch)
    if objective is None:
        return whole
    rule = check_objective(objective)
    labels = whole.get(rule.labels_key)
    if "shift_labels" in whole:
        whole.pop(rule.labels_key, None)
    elif rule.shift and labels is not None:
        del whole[rule.labels_key]
        whole["shift_labels"] = F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)
        if whole.get(LOSS_WEIGHTS) is not None:
            whole[LOSS_WEIGHTS] = F.pad(whole[LOSS_WEIGHTS][..., 1:], (0, 1))
    return whole


def _visible(tokens: Tensor, padding: Tensor | None, documents: Tensor | None, layout: Layout, sees_itself: bool) -> Tensor:
    """``[B, 1, S / size, S]``: which keys of the whole sequence each local query may look at."""
    size, length = tokens.shape[:2]
    keys = torch.arange(length, device=tokens.device)
    queries = local_part(keys, layout, dim=0)[:, None]
    seen = (keys <= queries).expand(size, 1, -1, -1)
    if padding is not None:
        seen = seen & padding.bool()[:, None, None, :]
    if documents is not None:
        seen = seen & (local_part(documents, layout)[:, None, :, None] == documents[:, None, None, :])
    return seen | (keys == queries) if sees_itself else seen


def _documents(position_ids: Tensor) -> Tensor | None:
    """The number of the document of each token, from 0; None if there is one document per row."""
    numbers = number_documents(position_ids)
    return numbers if bool(numbers.any()) else None


def _checked(name: str, value: Tensor, shape: tuple[int, int], exactly: bool = False) -> Tensor:
    if tuple(value.shape[:2]) == shape and not (exactly and value.ndim > 2):
        return value
    raise DataError(
        f"{name!r} of shape {tuple(value.shape)} cannot be cut for context parallelism: its first two dimensions are to be "
        f"samples and tokens, {shape}{', and there is no other' if exactly else ''}"
    )


def _uncut(name: str, value: Any, length: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > 1 and length in value.shape[1:]:
        raise DataError(
            f"context parallelism does not know how to cut {name!r} of shape {tuple(value.shape)}, in which the length of the "
            "sequence occurs: leave that column out of the batch, or set context_parallel_size to 1"
        )
    return value
