"""Which rows of a batch hold several documents, and where each of them lies. Said by positions or masks, never by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironloom.models.documents import number_documents


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


def _of_mask(mask: Any) -> Tensor | None:
    """The documents of a boolean mask ``[B, 1, S, S]`` whose blocks they are; None for any other one."""
    if not (isinstance(mask, Tensor) and mask.ndim == 4 and mask.dtype is torch.bool):
        return None
    sees_previous = mask[:, 0].diagonal(-1, dim1=-2, dim2=-1)
    numbers = F.pad((~sees_previous).cumsum(dim=-1), (1, 0))
    is_separate = not bool((mask[:, 0] & (numbers[:, :, None] != numbers[:, None, :])).any())
    return numbers if is_separate and bool(numbers.any()) else None
