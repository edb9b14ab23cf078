"""The data of preference tuning: pairs of rows of tokens that begin alike, of which the model shall prefer one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ironloom.data.preferences.encoder import PairEncoder
from ironloom.data.preferences.sources import Preferences
from ironloom.data.rows import NOT_TRAINED, TrainedRows
from ironloom.data.sft import SFTData
from ironloom.errors import ConfigError, Problem

SIDES = ("chosen", "rejected")


class PreferencePairs(TrainedRows):
    """Pairs of rows of a store, each a sample: the preferred one has an even number, the other one follows.

    Args:
        store: With the column ``trained``.
        start: First row of the range, even.
        stop: End of the range, even.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of the folder, not as its content."""
        return PreferencePairs, (self.store, *self._range)

    @property
    def fingerprint(self) -> str:
        """Equal for the same tokens and marks, wherever they are stored."""
        return f"{self.store.fingerprint}:{self._range}"

    def __len__(self) -> int:
        """Number of pairs."""
        return (self._range[1] - self._range[0]) // 2

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of the pairs at ``indices``, of both rows."""
        return super().lengths(2 * indices) + super().lengths(2 * indices + 1)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One pair of n and m tokens: ``chosen_ids`` and ``chosen_labels`` (n - 1,), ``rejected_ids`` and ``rejected_labels`` (m - 1,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        sample = {}
        for place, side in enumerate(SIDES, start=self._range[0] + 2 * (index % len(self))):
            begin, end = self._offsets[place], self._offsets[place + 1]
            ids = self._tokens[begin:end].astype(np.int64)
            labels = np.where(self._trained[begin + 1 : end] == 1, ids[1:], NOT_TRAINED)
            sample[f"{side}_ids"], sample[f"{side}_labels"] = torch.from_numpy(ids[:-1]), torch.from_numpy(labels)
        return sample


class DPOData(SFTData):
    """Training, evaluation and test pairs as rows of tokens, with the tokenizer that made them.

    Takes the arguments of :class:`ironloom.data.sft.SFTData` but ``train_on`` and ``packing``: the answers that a pair differs in
    are compared. Datasets are those of preferences (``python-docstrings`` has some), see ``records.pair_of``.
    """

    types = ("dpo_chosen", "dpo_rejected")

    _source = Preferences
    _encoder_type = PairEncoder
    _rows_type = PreferencePairs

    def __init__(self, *args: Any, **kwargs: Any):
        reasons = {
            "train_on": "has no effect on pairs: the answers in which they differ are compared",
            "packing": "pairs are not packed: the two rows of a pair are compared",
        }
        problems = [Problem(reason, path=name) for name, reason in reasons.items() if name in kwargs]
        if problems:
            raise ConfigError(problems)
        super().__init__(*args, **kwargs)


def collate_pairs(samples: Sequence[dict[str, torch.Tensor]], pad_token_id: int = 0, length: int | None = None) -> dict[str, torch.Tensor]:
    """The batch of pairs, filled up on the right, which changes nothing in a row.

    Args:
        samples: Pairs, see :class:`PreferencePairs`, perhaps with ``reference`` (2,).
        pad_token_id: What rows are filled up with.
        length: Fill up to this many tokens; None: to the longest row.

    Returns:
        ``input_ids`` and ``shift_labels``, int64 of shape (pairs, 2, longest or ``length``), the preferred row first;
        ``reference``, float32 of shape (pairs, 2), where the samples have it.
    """
    length = length or max(len(sample[f"{side}_ids"]) for sample in samples for side in SIDES)
    batch = {}
    for name, column, fill in (("input_ids", "ids", pad_token_id), ("shift_labels", "labels", NOT_TRAINED)):
        batch[name] = torch.full((len(samples), 2, length), fill, dtype=torch.int64)
        for rows, sample in zip(batch[name], samples, strict=True):
            for row, side in zip(rows, SIDES, strict=True):
                row[: len(sample[f"{side}_{column}"])] = sample[f"{side}_{column}"]
    if "reference" in samples[0]:
        batch["reference"] = torch.stack([sample["reference"] for sample in samples])
    return batch
