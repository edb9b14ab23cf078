"""The loss where the last stage is: of one chunk, from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ironloom.errors import ConfigError
from ironloom.objectives import IGNORE_INDEX, CrossEntropy, ModelLoss, Objective, logits_of
from ironloom.objectives.base import OutputObjective, batch_size, count_targets, no_loss
from ironloom.objectives.weighted import LOSS_WEIGHTS, refuse_weights

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: How near a user's loss must be to ours to be the same function, relative.
_SAME = 1e-5


@dataclass(frozen=True)
class MeanLoss(OutputObjective):
    """``loss_fn(logits, labels)``, a mean over the targets of what it is given, times their number.

    Attributes:
        function: The user's.
        labels_key: Key of the labels in a batch.
    """

    function: LossFunction
    labels_key: str = "labels"

    def weight(self, batch: Mapping[str, Any]) -> int:
        """Unmasked targets, each label being the next token's; samples where labels are no whole numbers."""
        refuse_weights(batch, "loss_fn")
        labels = batch.get(self.labels_key)
        if not isinstance(labels, torch.Tensor) or labels.is_floating_point():
            return batch_size(batch)
        return count_targets(labels[..., 1:] if labels.ndim > 1 else labels)

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Everything but the labels."""
        return {name: value for name, value in batch.items() if name not in (self.labels_key, LOSS_WEIGHTS)}

    def loss_sum(self, outputs: Any, batch: Mapping[str, Any], total: float) -> torch.Tensor:
        """The function's mean times the number of targets; nothing where there is none.

        Raises:
            ConfigError: If the model returned no logits.
        """
        weight = self.weight(batch)
        logits = logits_of(outputs)
        if logits is None:
            raise no_loss(outputs)
        return self.function(logits, batch[self.labels_key]).float() * weight if weight else (logits * 0).sum().float()


def objective_of(loss_fn: LossFunction, labels_key: str = "labels") -> Objective:
    """The objective that a user's loss is: our cross entropy where it turns out to be that, else a weighted mean.

    Which of the two a function is, with labels shifted or not, is seen from its value on numbers that are drawn once.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 11, generator=generator)
    labels = torch.randint(0, 11, (3, 6), generator=generator)
    labels[0, :3], labels[1, 4:] = IGNORE_INDEX, IGNORE_INDEX
    try:
        value = float(loss_fn(logits, labels))
    except (IndexError, RuntimeError, TypeError, ValueError):
        return MeanLoss(loss_fn, labels_key)  # made for something else than tokens
    for shift in (True, False):
        ours = CrossEntropy(shift, labels_key)
        batch = {labels_key: labels}
        if math.isclose(float(ours.loss_sum(logits, batch, 1)) / ours.weight(batch), value, rel_tol=_SAME):
            return ours
    return MeanLoss(loss_fn, labels_key)


def check_objective(objective: Objective) -> OutputObjective:
    """The objective, if its loss can be computed from the logits of a chunk.

    Raises:
        ConfigError: If it needs the whole model.
    """
    needs_model = not isinstance(objective, OutputObjective) or isinstance(objective, ModelLoss)
    if isinstance(objective, CrossEntropy):
        needs_model = objective.keep_labels or objective.make_decoder_inputs is not None or bool(objective.aux_coefficient)
    if needs_model:
        raise ConfigError(
            "a pipeline computes the loss from the logits of its last stage, but this model's loss is computed elsewhere "
            "(by its own forward, by compute_loss, or by several of its modules): give loss_fn"
        )
    assert isinstance(objective, OutputObjective)
    return objective


class Outputs(dict[str, torch.Tensor]):
    """What a loss gets for a model's outputs: ``outputs.logits`` and ``outputs["logits"]``."""

    @property
    def logits(self) -> torch.Tensor:
        """Logits of a chunk."""
        return self["logits"]
