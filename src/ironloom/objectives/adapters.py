"""Losses that come from elsewhere, as objectives: a user's function, or the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ironloom.objectives.base import IGNORE_INDEX, Batch, Model, OutputObjective, batch_size, count_targets, loss_of
from ironloom.objectives.weighted import LOSS_WEIGHTS, check_shape, refuse_weights, sum_weights


def _count(batch: Batch, labels_key: str, shift: bool) -> float:
    """Unmasked targets where there are integer labels, or the sum of their weights, else samples."""
    labels, weights = batch.get("shift_labels", batch.get(labels_key)), batch.get(LOSS_WEIGHTS)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point():
        return batch_size(batch)
    begin = 1 if shift and "shift_labels" not in batch and labels.ndim > 1 else 0
    if weights is None:
        return count_targets(labels[..., begin:])
    check_shape(labels, weights)
    return sum_weights(labels[..., begin:], weights[..., begin:], IGNORE_INDEX)


def _times(mean: torch.Tensor, weight: float) -> torch.Tensor:
    """The sum behind a mean. The mean over no target at all is not a number, and its sum is nothing."""
    return mean.float() * weight if weight else torch.zeros((), device=mean.device)


@dataclass(frozen=True)
class FunctionLoss(OutputObjective):
    """``compute_loss_func(outputs, labels, num_items_in_batch=total)``, as in ``transformers``.

    The function divides by ``num_items_in_batch``, the targets of the whole optimizer step.
    """

    function: Callable[..., torch.Tensor]
    labels_key: str = "labels"
    shift: bool = True

    def weight(self, batch: Batch) -> float:
        """Unmasked targets."""
        refuse_weights(batch, "compute_loss_func")
        return _count(batch, self.labels_key, self.shift)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Everything but the labels."""
        return {key: value for key, value in batch.items() if key not in ("shift_labels", LOSS_WEIGHTS, self.labels_key)}

    def loss_sum(self, outputs: Any, batch: Batch, total: float) -> torch.Tensor:
        """The function's value times ``total``."""
        labels = batch.get("shift_labels", batch.get(self.labels_key))
        return self.function(outputs, labels, num_items_in_batch=torch.tensor(total)).float() * total


@dataclass(frozen=True)
class ModelLoss(OutputObjective):
    """The loss of the model's own forward, a mean over the batch, times the batch's weight.

    Attributes:
        labels_key: Key of the labels in a batch.
        shift: Whether each position is trained on the next label.
        takes_weights: Whether the forward has an argument ``loss_weights``, and so gives the weighted mean.
    """

    labels_key: str = "labels"
    shift: bool = True
    takes_weights: bool = False

    def weight(self, batch: Batch) -> float:
        """Unmasked targets, or samples where there are no integer labels."""
        if not self.takes_weights:
            refuse_weights(batch, "the model's own loss")
        return _count(batch, self.labels_key, self.shift)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The whole batch."""
        return dict(batch)

    def loss_sum(self, outputs: Any, batch: Batch, total: float) -> torch.Tensor:
        """Mean times weight."""
        return _times(loss_of(outputs), self.weight(batch))


@dataclass(frozen=True)
class MethodLoss:
    """A subclass's ``compute_loss(model, inputs, return_outputs, num_items_in_batch)``.

    The method returns the mean over the batch it is given; ``num_items_in_batch`` is that batch's
    weight, so a method that divides a sum by it and one that ignores it mean the same.
    """

    method: Callable[..., Any]
    labels_key: str = "labels"
    shift: bool = True

    def weight(self, batch: Batch) -> float:
        """Unmasked targets, or the sum of their weights; samples where there are no integer labels."""
        return _count(batch, self.labels_key, self.shift)

    def __call__(self, model: Model, batch: Batch, total: float) -> tuple[torch.Tensor, Any]:
        """The method's mean times the batch's weight."""
        weight = self.weight(batch)
        loss, outputs = self.method(model, dict(batch), return_outputs=True, num_items_in_batch=torch.tensor(weight))
        return _times(loss, weight), outputs
