"""Which rows of a batch hold several documents, and where each of them lies. Said by positions or masks, never by tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.documents import number_documents
from ironloom.trainer.loaders import innermost


def has_documents(batch: Any) -> bool:
    """Whether positions of a batch start again, or a mask of four dimensions separates documents."""
    return isinstance(batch, Mapping) and (starts_again(batch.get("position_ids")) or _of_mask(batch.get("attention_mask")) is not None)


def starts_again(positions: Any) -> bool:
    """Whether positions ``[..., S]`` do not go on by one everywhere."""
    return isinstance(positions, Tensor) and positions.ndim in (1, 2) and bool((positions.diff() != 1).any())


def documents_of(batch: Any) -> Tensor | None:
    """The number of each token's document in its row ``[B, S]``; None if no row has several that are to be kept apart."""
    mask = batch.get("attention_mask")
    if mask is not None:
        return _of_mask(mask)
    positions = batch.get("position_ids")
    return number_documents(positions) if starts_again(positions) and positions.ndim == 2 else None


def unheeded(model: nn.Module, batch: Mapping[str, Any]) -> str | None:
    """Why a model cannot know what a batch says of its documents."""
    forward = inspect.signature(innermost(model).forward).parameters
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward.values())
    name, what = name_of(model), "leave them out of the data, or do not pack (data.packing: none)"
    if "position_ids" in batch and "position_ids" not in forward and not is_open:
        return f"positions start again within rows (position_ids), and the forward of {name} does not take them: {what}"
    config, mask = getattr(model, "config", None), batch.get("attention_mask")
    window = getattr(config, "sliding_window", None)
    if isinstance(mask, Tensor) and mask.ndim == 4 and isinstance(window, int) and window < mask.shape[-1]:
        return (
            f"{name} has a sliding window of {window} tokens, which a mask of what each token sees would take the place of: let positions "
            "start again with each document instead (model.reset_position_ids: true)"
        )
    return None


def name_of(model: nn.Module) -> str:
    """What a model is called."""
    return type(model).__name__.removeprefix("FSDP")  # PyTorch's name for a model whose weights are in parts


def _of_mask(mask: Any) -> Tensor | None:
    """The documents of a boolean mask ``[B, 1, S, S]`` whose blocks they are; None for any other one."""
    if not (isinstance(mask, Tensor) and mask.ndim == 4 and mask.dtype is torch.bool):
        return None
    sees_previous = mask[:, 0].diagonal(-1, dim1=-2, dim2=-1)
    numbers = F.pad((~sees_previous).cumsum(dim=-1), (1, 0))
    is_separate = not bool((mask[:, 0] & (numbers[:, :, None] != numbers[:, None, :])).any())
    return numbers if is_separate and bool(numbers.any()) else None
