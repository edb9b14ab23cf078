"""What a low-level error of a forward pass means for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ironloom.errors import DataError


def token_error(model: nn.Module, batch: Mapping[str, Any]) -> DataError | None:
    """The error of token ids that no embedding of the model has, or None if they are all right.

    Args:
        model: Its largest embedding is taken for the vocabulary.
        batch: With ``input_ids`` of any shape.
    """
    ids = batch.get("input_ids")
    rows = max((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), default=0)
    if not isinstance(ids, torch.Tensor) or not rows:
        return None
    bad = ids[(ids < 0) | (ids >= rows)]
    if not len(bad):
        return None
    return DataError(
        f"token id {int(bad[0])} is outside the model's vocabulary of {rows} ({len(bad)} such ids in this batch): "
        "the tokenizer and the model do not fit"
    )
