"""Rows of a store of which some tokens are trained: samples of their own length, and batches that are filled up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ironloom.data.isolation import keep_apart
from ironloom.data.store import TokenStore

NOT_TRAINED = -100
LOSS_WEIGHTS = "loss_weights"


class TrainedRows:
    """Rows of a store, each a sample of its own length.

    Args:
        store: With the column ``trained``, perhaps with ``weights``.
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
        self._weights = None if store.weights is None else np.asarray(store.weights).view(np.ndarray)

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
        """One row of n tokens: ``input_ids`` and ``shift_labels``, int64 of shape (n - 1,).

        Where tokens have weights, also ``loss_weights``, those of the labels, float32 of the same shape.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = self._range[0] + index % len(self)
        begin, end = self._offsets[place], self._offsets[place + 1]
        ids = self._tokens[begin:end].astype(np.int64)
        labels = np.where(self._trained[begin + 1 : end] == 1, ids[1:], NOT_TRAINED)
        sample = {"input_ids": torch.from_numpy(ids[:-1]), "shift_labels": torch.from_numpy(labels)}
        if self._weights is not None:
            sample[LOSS_WEIGHTS] = torch.from_numpy(self._weights[begin + 1 : end].copy())
        return sample


class JoinedRows(Sequence[dict[str, torch.Tensor]]):
    """Rows that lie behind one another: a sequence of dicts for any collator, in one piece for ours.

    Args:
        columns: What samples have, row after row, each of shape (tokens,).
        edges: Where each row starts and the last one ends, (rows + 1,).
    """

    def __init__(self, columns: dict[str, NDArray[Any]], edges: list[int]):
        self.columns = columns
        self.edges = edges

    @classmethod
    def of(cls, samples: Sequence[dict[str, torch.Tensor]]) -> JoinedRows:
        """The samples behind one another; as they are if they lie so already. Where some have ``loss_weights``, others weigh 1."""
        if isinstance(samples, JoinedRows):
            return samples
        if len({LOSS_WEIGHTS in sample for sample in samples}) > 1:
            samples = [{LOSS_WEIGHTS: torch.ones(len(sample["input_ids"])), **sample} for sample in samples]
        columns = {name: torch.cat([sample[name] for sample in samples]).numpy() for name in samples[0]}
        return cls(columns, [0, *itertools.accumulate(len(sample["input_ids"]) for sample in samples)])

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: Any) -> Any:
        """One sample, or a list of them for a slice; its tensors are views."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        begin, end = self.edges[place], self.edges[place + 1]
        return {name: torch.from_numpy(values[begin:end]) for name, values in self.columns.items()}


def collate_rows(
    samples: Sequence[dict[str, torch.Tensor]],
    pad_token_id: int = 0,
    length: int | None = None,
    reset_position_ids: bool = True,
    reset_attention_mask: bool = True,
) -> dict[str, torch.Tensor]:
    """The batch of samples of :class:`TrainedRows` or ``PackedRows``, filled up on the right.

    What stands on the right of a row changes nothing in it: its tokens look to the left, and the padding is not trained.

    Args:
        samples: Rows.
        pad_token_id: What rows are filled up with.
        length: Fill up to this many tokens; None: to the longest row.
        reset_position_ids: Where samples have ``position_ids``: see :func:`ironloom.data.isolation.keep_apart`.
        reset_attention_mask: The same.

    Returns:
        ``input_ids`` and ``shift_labels``, int64 of shape (samples, longest or ``length``), and what keeps the documents of a row
        apart if any row has several; padding is a document of its own. Where samples have ``loss_weights``, these too, float32.
    """
    rows = JoinedRows.of(samples)
    spans = list(itertools.pairwise(rows.edges))
    length = length or max(end - begin for begin, end in spans)
    positions = rows.columns.get("position_ids")
    is_packed = positions is not None and any(positions[end - 1] != end - begin - 1 for begin, end in spans)
    filling = {"input_ids": pad_token_id, "shift_labels": NOT_TRAINED} | ({"position_ids": np.arange(length)} if is_packed else {})
    if LOSS_WEIGHTS in rows.columns:
        filling[LOSS_WEIGHTS] = 0
    batch = {}
    for name, fill in filling.items():
        batch[name] = np.empty((len(spans), length), dtype=np.float32 if name == LOSS_WEIGHTS else np.int64)
        for row, (begin, end) in zip(batch[name], spans, strict=True):
            row[: end - begin] = rows.columns[name][begin:end]
            row[end - begin :] = fill if isinstance(fill, int) else fill[: length - (end - begin)]
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    return keep_apart(tensors, reset_position_ids, reset_attention_mask) if is_packed else tensors
