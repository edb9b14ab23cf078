"""Cross entropy over tokens or classes, computed here and not by the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ironloom.errors import DataError
from ironloom.objectives.base import IGNORE_INDEX, Batch, OutputObjective, count_targets, logits_of

LABEL_KEYS = ("labels", "shift_labels")


@dataclass(frozen=True)
class CrossEntropy(OutputObjective):
    """Cross entropy of ``logits`` [..., classes] with ``labels`` [...], summed over unmasked targets.

    Attributes:
        shift: The labels are the inputs themselves and each position is trained on the next one, as
            causal language models are given them. A batch with ``shift_labels`` is shifted already.
        labels_key: Key of the labels in a batch.
        make_decoder_inputs: For encoder-decoder models: turns labels into ``decoder_input_ids``.
    """

    shift: bool = True
    labels_key: str = "labels"
    make_decoder_inputs: Any = None

    def weight(self, batch: Batch) -> int:
        """Unmasked targets."""
        if "shift_labels" in batch:
            return count_targets(batch["shift_labels"])
        labels = batch[self.labels_key]
        return count_targets(labels[..., 1:] if self.shift else labels)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Everything but the labels, so that the model does not compute a loss of its own."""
        inputs = {key: value for key, value in batch.items() if key not in LABEL_KEYS and key != self.labels_key}
        if self.make_decoder_inputs is not None and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self.make_decoder_inputs(labels=batch[self.labels_key])
        return inputs

    def loss_sum(self, outputs: Any, batch: Batch, total: int) -> torch.Tensor:
        """Sum of the negative log-likelihoods of the unmasked targets, in float32.

        Raises:
            DataError: If a label is outside the logits' classes.
        """
        logits = logits_of(outputs)
        assert logits is not None, "chosen for a model without logits"
        if "shift_labels" in batch:
            targets = batch["shift_labels"]
        else:
            targets = batch[self.labels_key]
            if self.shift:
                # Moving the labels costs nothing beside cutting (and so copying) the logits.
                targets = F.pad(targets[..., 1:], (0, 1), value=IGNORE_INDEX)
        try:
            return F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORE_INDEX, reduction="sum"
            )
        except IndexError:
            raise _outside(targets, logits.shape[-1]) from None


def _outside(targets: torch.Tensor, classes: int) -> DataError:
    bad = targets[(targets != IGNORE_INDEX) & ((targets < 0) | (targets >= classes))]
    return DataError(
        f"label {int(bad[0])} is outside the model's {classes} classes "
        f"({len(bad)} such labels in this batch): the tokenizer and the model do not fit, or a label is not masked with {IGNORE_INDEX}"
    )
