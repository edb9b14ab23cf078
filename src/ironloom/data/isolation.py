"""Documents inside rows: positions that begin again with each of them, and what makes a model keep them apart.

Boundaries are data: they come from the store, and no reader looks for an end token. Samples carry ``position_ids`` that begin again at
0 with each document; a batch carries what the model needs. A batch has no ``position_ids`` where each row has one document: then causal
attention says it all, and is faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Isolation:
    """What becomes of documents that share a row.

    Attributes:
        reset_position_ids: Whether positions begin again with each of them.
        reset_attention_mask: Whether no token sees another one. Then the last token of a document has no label.
        eod_mask_loss: Whether the last token of a document is no label.
    """

    reset_position_ids: bool = False
    reset_attention_mask: bool = False
    eod_mask_loss: bool = False

    @property
    def are_apart(self) -> bool:
        """Whether a model is told where they begin."""
        return self.reset_position_ids or self.reset_attention_mask


TOGETHER = Isolation()
"""They are one run of tokens."""

APART = Isolation(reset_position_ids=True, reset_attention_mask=True)
"""None of them knows that another is there."""


def restarting(length: int, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that begin again at 0 at some places.

    Args:
        length: Number of positions.
        starts: Where they begin again, increasing, from 0; the first one is 0.

    Returns:
        The positions, shape (length,).
    """
    return np.arange(length) - np.repeat(starts, np.diff(starts, append=length))


def has_several(position_ids: Tensor) -> bool:
    """Whether a row has more than one document: else its last position is that of the row."""
    return bool((position_ids[..., -1] != position_ids.shape[-1] - 1).any())


def keep_apart(batch: dict[str, Tensor], reset_position_ids: bool, reset_attention_mask: bool) -> dict[str, Tensor]:
    """What a model is given, so that documents have positions, or attention, of their own. Both are the convention of packed rows.

    Args:
        batch: With ``position_ids`` ``[B, S]`` that begin again with each document; they are taken out or replaced.
        reset_position_ids: Whether the model is given these positions; else they run on.
        reset_attention_mask: Whether no token sees another document.

    Returns:
        The batch: with ``position_ids`` alone, which says that documents are apart in every way; with ``position_ids`` and an
        ``attention_mask`` ``[B, S]`` of ones, if they see each other; with a boolean ``attention_mask`` ``[B, 1, S, S]`` alone,
        if positions run on; with neither, if there is nothing to keep apart.
    """
    positions = batch.pop("position_ids")
    if reset_position_ids:
        batch["position_ids"] = positions
        if not reset_attention_mask:
            batch["attention_mask"] = torch.ones_like(positions)
    elif reset_attention_mask:
        places = torch.arange(positions.shape[1])
        starts = places - positions  # equal for the tokens of a document
        batch["attention_mask"] = ((starts[:, None, :, None] == starts[:, None, None, :]) & (places <= places[:, None])).contiguous()
    return batch
