"""Rows of a store of which some tokens are trained: samples of their own length, and batches that are filled up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ironloom.data.store import TokenStore

NOT_TRAINED = -100


class TrainedRows:
    """Rows of a store, each a sample of its own length.

    Args:
        store: With the column ``trained``.
        start: First row of the range.
        stop: End of the range.
    """

    def __init__(self, store: TokenStore, start: int, stop: int):
        assert store.trained is not None
        self.store = store
        self._range = start, stop
        self._tokens = np.asarray(store.tokens).view(np.ndarray)
        self._trained = np.asarray(store.trained).view(np.ndarray)
        self._offsets = np.asarray(store.offsets).view(np.ndarray)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of the folder, not as its content."""
        return TrainedRows, (self.store, *self._range)

    def __len__(self) -> int:
        """Number of rows."""
        return self._range[1] - self._range[0]

    @property
    def mean_length(self) -> Fraction:
        """Input tokens of a sample, on average: the last token of a row is only a label."""
        start, stop = self._range
        return Fraction(int(self._offsets[stop] - self._offsets[start]) - (stop - start), max(1, len(self)))

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of the samples at ``indices``."""
        rows = self._range[0] + indices
        lengths: NDArray[np.int64] = self._offsets[rows + 1] - self._offsets[rows] - 1
        return lengths

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One row of n tokens: ``input_ids`` and ``shift_labels``, int64 of shape (n - 1,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = self._range[0] + index % len(self)
        begin, end = self._offsets[place], self._offsets[place + 1]
        ids = self._tokens[begin:end].astype(np.int64)
        labels = np.where(self._trained[begin + 1 : end] == 1, ids[1:], NOT_TRAINED)
        return {"input_ids": torch.from_numpy(ids[:-1]), "shift_labels": torch.from_numpy(labels)}


def collate_rows(samples: Sequence[dict[str, torch.Tensor]], pad_token_id: int = 0, length: int | None = None) -> dict[str, torch.Tensor]:
    """The batch of samples of :class:`TrainedRows`, filled up on the right.

    What stands on the right of a row changes nothing in it: its tokens look to the left, and the padding is not trained.

    Args:
        samples: Rows.
        pad_token_id: What rows are filled up with.
        length: Fill up to this many tokens; None: to the longest row.

    Returns:
        ``input_ids`` and ``shift_labels``, int64 of shape (samples, longest or ``length``).
    """
    length = length or max(len(sample["input_ids"]) for sample in samples)
    batch = {}
    for name, fill in (("input_ids", pad_token_id), ("shift_labels", NOT_TRAINED)):
        batch[name] = torch.full((len(samples), length), fill, dtype=torch.int64)
        for row, sample in zip(batch[name], samples, strict=True):
            row[: len(sample[name])] = sample[name]
    return batch
