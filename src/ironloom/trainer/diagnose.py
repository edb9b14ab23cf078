"""What a low-level error in the midst of a step means for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ironloom.errors import ConfigError, DataError


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
    if ids.dtype not in (torch.int64, torch.int32):
        return DataError(f"input_ids are {ids.dtype}, an embedding takes int64 or int32: convert them in the data_collator")
    bad = ids[(ids < 0) | (ids >= rows)]
    if not len(bad):
        return None
    return DataError(
        f"token id {int(bad[0])} is outside the model's vocabulary of {rows} ({len(bad)} such ids in this batch): "
        "the tokenizer and the model do not fit"
    )


def index_error(batch: Mapping[str, Any], error: IndexError) -> DataError:
    """The error of a number that the model takes for an index and that is none, a label for instance."""
    ranges = ", ".join(
        f"{name} from {int(value.min())} to {int(value.max())}"
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and value.numel() and not value.is_floating_point()
    )
    return DataError(f"the model cannot use a number of this batch as an index ({error}); the batch has {ranges}")


def batch_error(batch: Any) -> DataError | None:
    """The error of what a collator made, if that is no batch; None if it is one."""
    if not isinstance(batch, Mapping):
        return DataError(
            f"a batch must be a mapping of the model's argument names to tensors, found a {type(batch).__name__}: "
            "let the samples be mappings, or give a data_collator"
        )
    if not any(isinstance(value, torch.Tensor) for value in batch.values()):
        found = ", ".join(f"{name!r} ({type(value).__name__})" for name, value in batch.items()) or "nothing"
        return DataError(f"a batch has no tensors, only {found}: the data_collator must make them")
    return None


def no_gradient() -> ConfigError:
    """The error of a loss that depends on no trainable parameter."""
    if not torch.is_grad_enabled():
        return ConfigError("the loss has no gradient: gradients are switched off (no_grad, or a callback's set_grad_enabled(False))")
    return ConfigError(
        "the loss has no gradient: the model's forward runs without gradients (no_grad, detach), "
        "or none of the parameters it uses is trainable"
    )


def sparse_gradients(model: nn.Module) -> ConfigError | None:
    """The error of gradients whose norm cannot be taken; None if there are no such."""
    names = [name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.is_sparse]
    if not names:
        return None
    return ConfigError(
        f"the gradient of {', '.join(names[:5])} is sparse and has no norm to clip or to log: "
        "set max_grad_norm to 0, or the embedding's sparse to False"
    )
