"""Cross entropy over tokens or classes, computed here and not by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ironloom.errors import ConfigError, DataError
from ironloom.objectives.base import IGNORE_INDEX, Batch, OutputObjective, batch_size, count_targets, logits_of, loss_of, no_loss
from ironloom.objectives.chunked import cross_entropy_sum
from ironloom.objectives.weighted import LOSS_WEIGHTS, check_shape, refuse_weights, sum_weights

_NO_INPUTS = ("labels", "shift_labels", LOSS_WEIGHTS)


@dataclass(frozen=True)
class CrossEntropy(OutputObjective):
    """Cross entropy of ``logits`` [..., classes] with ``labels`` [...], summed over unmasked targets.

    Where a batch has ``loss_weights``, beside the labels and of their shape, each target counts as much as its weight says.

    Attributes:
        shift: The labels are the inputs themselves and each position is trained on the next one, as
            causal language models are given them. A batch with ``shift_labels`` is shifted already,
            and one label for a whole sample has no next one.
        labels_key: Key of the labels in a batch.
        make_decoder_inputs: For encoder-decoder models: turns labels into ``decoder_input_ids``.
        keep_labels: The model's forward cannot be called without labels.
        aux_coefficient: Weight of the outputs' ``aux_loss``, a mean over the batch (the load balancing of
            mixtures of experts); it counts as much as the batch has targets.
        nll_sum: ``f(logits [N, C], targets [N], ignore_index, weights [N] or None)``, the sum itself; another one where each process
            has some classes.
        classes: Number of classes, where the logits that ``nll_sum`` gets are those of some; None: of all.
    """

    shift: bool = True
    labels_key: str = "labels"
    make_decoder_inputs: Any = None
    keep_labels: bool = False
    aux_coefficient: float = 0.0
    nll_sum: Callable[[torch.Tensor, torch.Tensor, int, torch.Tensor | None], torch.Tensor] = cross_entropy_sum
    classes: int | None = None

    def weight(self, batch: Batch) -> float:
        """Unmasked targets, or the sum of their weights; samples where there are no labels."""
        weights = batch.get(LOSS_WEIGHTS)
        if "shift_labels" in batch:
            targets = batch["shift_labels"]
        elif self.labels_key not in batch:
            refuse_weights(batch, "a loss without labels")
            return batch_size(batch)
        else:
            targets = batch[self.labels_key]
            if self.shift and targets.ndim > 1:
                if weights is not None:
                    check_shape(targets, weights)
                    weights = weights[..., 1:]
                targets = targets[..., 1:]
        return count_targets(targets) if weights is None else sum_weights(targets, weights, IGNORE_INDEX)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Everything but the labels and their weights, so that the model does not compute a loss of its own."""
        if self.keep_labels:
            return {key: value for key, value in batch.items() if key != LOSS_WEIGHTS}
        inputs = {key: value for key, value in batch.items() if key not in _NO_INPUTS and key != self.labels_key}
        if self.make_decoder_inputs is not None and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self.make_decoder_inputs(labels=batch[self.labels_key])
        return inputs

    def loss_sum(self, outputs: Any, batch: Batch, total: float) -> torch.Tensor:
        """Sum of the negative log-likelihoods of the unmasked targets, each times its weight, in float32.

        Raises:
            DataError: If there are no labels, or they do not fit the logits in kind, number or range, or their weights do not fit them.
            ConfigError: If the model returned no logits.
        """
        if self.labels_key not in batch and "shift_labels" not in batch:
            return self._own_loss(outputs, batch)
        logits = logits_of(outputs)
        if logits is None:
            raise no_loss(outputs)
        targets, weights = self._targets(batch)
        if targets.dtype is not torch.int64 and not targets.is_floating_point():
            targets = targets.long()
        try:
            loss = self.nll_sum(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), IGNORE_INDEX, weights)
        except IndexError:
            raise _outside(targets, self.classes or logits.shape[-1]) from None
        except (RuntimeError, ValueError) as error:
            raise _misfit(targets, logits) or error from error
        if self.aux_coefficient and getattr(outputs, "aux_loss", None) is not None:
            loss = loss + self.aux_coefficient * outputs.aux_loss * self.weight(batch)
        return loss

    def _targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The target of each position, and their weights in one row; None if they weigh 1."""
        weights = batch.get(LOSS_WEIGHTS)
        targets = batch["shift_labels"] if "shift_labels" in batch else batch[self.labels_key]
        if weights is not None:
            check_shape(targets, weights)
            weights = weights.float()
        if "shift_labels" not in batch and self.shift and targets.ndim > 1:
            # Moving the labels costs nothing beside cutting (and so copying) the logits.
            targets = F.pad(targets[..., 1:], (0, 1), value=IGNORE_INDEX)
            weights = None if weights is None else F.pad(weights[..., 1:], (0, 1))
        if weights is None:
            return targets, None
        # What weighs nothing is no target, whatever its loss is.
        return targets.where(weights > 0, IGNORE_INDEX), weights.reshape(-1)

    def _own_loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The model's mean over the samples, for a model that needs no labels (an autoencoder, say)."""
        try:
            return loss_of(outputs).float() * batch_size(batch)
        except ConfigError:
            raise DataError(
                f"a batch has no {self.labels_key!r} to train on, only {', '.join(map(repr, batch))}: "
                "add them in the data_collator, or name their key in label_names"
            ) from None


def _misfit(targets: torch.Tensor, logits: torch.Tensor) -> DataError | None:
    """Why labels are none for these logits; None if they are."""
    if targets.is_floating_point():
        return DataError(
            f"labels are {targets.dtype}, but classes and tokens are whole numbers "
            "(for another kind of target, let the model return its loss, or give compute_loss_func)"
        )
    if targets.shape != logits.shape[:-1]:
        return DataError(f"labels of shape {tuple(targets.shape)} do not fit logits of shape {tuple(logits.shape)}")
    return None


def _outside(targets: torch.Tensor, classes: int) -> DataError:
    bad = targets[(targets != IGNORE_INDEX) & ((targets < 0) | (targets >= classes))]
    return DataError(
        f"label {int(bad[0])} is outside the model's {classes} classes "
        f"({len(bad)} such labels in this batch): the tokenizer and the model do not fit, or a label is not masked with {IGNORE_INDEX}"
    )
