"""Preference losses over pairs of rows: how much more than a reference does the model prefer the right one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch.nn import functional as F

from ironloom.errors import ConfigError, DataError
from ironloom.objectives.base import IGNORE_INDEX, Batch, ReportingObjective, logits_of, no_loss
from ironloom.objectives.chunked import cross_entropy_each
from ironloom.objectives.weighted import refuse_weights

PreferenceLoss = Literal["sigmoid", "ipo", "hinge", "sigmoid_norm"]

#: Keys of a batch that the model is not given.
_OWN = ("shift_labels", "reference")


@dataclass(frozen=True)
class DPO(ReportingObjective):
    """Direct preference optimisation; a pair weighs 1.

    With ``c`` and ``r`` the log-ratios of the preferred and of the other answer, model to reference, summed over the tokens
    of an answer (``c'`` and ``r'``: averaged over them), and ``d = beta (c - r)``:

    ================  =====================================================================================================
    ``sigmoid``       ``-(1 - s) log sigmoid(d) - s log sigmoid(-d)`` (Rafailov et al., 2023, equation 7; with a label
                      smoothing ``s``, the chance that a label is wrong, Mitchell, 2023: cDPO)
    ``sigmoid_norm``  the same of ``d = beta (c' - r')``, so that long answers do not count more
    ``hinge``         ``max(0, 1 - d)`` (Zhao et al., 2023)
    ``ipo``           ``(c' - r' - 1 / (2 beta))^2`` (Azar et al., 2023, equation 17; per token, as its authors mean it)
    ================  =====================================================================================================

    Beside the loss it reports what TRL does: ``rewards/chosen`` and ``rewards/rejected`` (``beta c`` and ``beta r``),
    ``rewards/margins`` (their difference), ``rewards/accuracies`` (share of pairs with a positive margin), ``logps/chosen``
    and ``logps/rejected`` (log-probabilities of the answers under the model); each is a mean over pairs.

    Attributes:
        loss: Which of these.
        beta: How strongly the model is held to the reference.
        label_smoothing: Chance that a label is wrong, below one half.
    """

    loss: PreferenceLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0

    reports: ClassVar[tuple[str, ...]] = (
        *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"),
    )

    def __post_init__(self) -> None:
        """Refuse what is no loss.

        Raises:
            ConfigError: For a value out of range, or smoothing where there is none.
        """
        if self.loss not in get_args(PreferenceLoss):
            raise ConfigError(f"loss: expected one of {', '.join(get_args(PreferenceLoss))}, found {self.loss!r}")
        if not self.beta > 0:
            raise ConfigError(f"beta: expected a number above 0, found {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing: expected a number from 0 to below 0.5, found {self.label_smoothing}")
        if self.label_smoothing and self.loss in ("ipo", "hinge"):
            raise ConfigError(f"label_smoothing: {self.loss} has none (sigmoid and sigmoid_norm have)")

    def weight(self, batch: Batch) -> int:
        """Pairs."""
        refuse_weights(batch, "the loss of pairs")
        return len(batch["input_ids"])

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Both rows of all pairs as one batch."""
        return {
            name: value.flatten(0, 1) if isinstance(value, torch.Tensor) else value for name, value in batch.items() if name not in _OWN
        }

    def loss_and_sums(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over the pairs, and the sums of what is reported.

        Args:
            outputs: With logits [2 pairs, S, classes].
            batch: ``shift_labels`` [pairs, 2, S], the preferred row first, and ``reference`` [pairs, 2], see :func:`answers_of`.
            total: Not needed.

        Raises:
            DataError: If there is no reference.
            ConfigError: If the model returned no logits.
        """
        if "reference" not in batch:
            raise DataError("a batch of pairs has no 'reference' log-probabilities: train with PreferenceTrainer, which computes them")
        found, lengths = answers_of(outputs, batch)
        ratios = found - batch["reference"]
        scores = ratios / lengths if self.loss in ("ipo", "sigmoid_norm") else ratios
        delta = scores[:, 0] - scores[:, 1]
        if self.loss == "ipo":
            losses = (delta - 1 / (2 * self.beta)) ** 2
        elif self.loss == "hinge":
            losses = torch.relu(1 - self.beta * delta)
        else:
            losses = -(1 - self.label_smoothing) * F.logsigmoid(self.beta * delta)
            if self.label_smoothing:
                losses = losses - self.label_smoothing * F.logsigmoid(-self.beta * delta)
        with torch.no_grad():
            rewards = self.beta * ratios
            margins = rewards[:, 0] - rewards[:, 1]
            columns = (*rewards.unbind(1), (margins > 0).float(), margins, *found.unbind(1))
            sums = torch.stack([column.sum() for column in columns])
        return losses.sum(), sums


def answers_of(outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the answers of pairs, summed over their tokens, and their numbers of tokens.

    Args:
        outputs: With logits [2 pairs, S, classes].
        batch: ``shift_labels`` [pairs, 2, S].

    Returns:
        Both float32 of shape [pairs, 2]; a number of tokens is at least 1.

    Raises:
        ConfigError: If the model returned no logits.
    """
    logits = logits_of(outputs)
    if logits is None:
        raise no_loss(outputs)
    labels = batch["shift_labels"]
    losses = cross_entropy_each(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), IGNORE_INDEX)
    return -losses.view(labels.shape).sum(-1), (labels != IGNORE_INDEX).sum(-1).clamp(min=1).float()
