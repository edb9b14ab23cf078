"""Rows of several documents: samples of a store as a packing plan puts them together."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ironloom.data.isolation import APART, Isolation, restarting
from ironloom.data.packing_plan import PackingPlan
from ironloom.data.rows import LOSS_WEIGHTS, NOT_TRAINED, JoinedRows
from ironloom.data.store import TokenStore


class PackedRows:
    """Rows of a packing plan, each a sample. No label lies in another document than the tokens that it follows.

    Args:
        store: The documents; where it has the column ``trained``, only those tokens are labels, and these count as much
            as the column ``weights`` says.
        plan: Made of this store.
        stop: Use the first so many rows; None: all.
        isolation: What becomes of the documents of a row, but for the labels: none ever crosses a boundary.
    """

    def __init__(self, store: TokenStore, plan: PackingPlan, stop: int | None = None, isolation: Isolation = APART):
        self.store = store
        self.plan = plan
        self._stop = plan.num_rows if stop is None else min(stop, plan.num_rows)
        self.isolation = isolation
        # Slicing a plain array is several times faster than slicing a memmap, and reads the same file.
        self._tokens = np.asarray(store.tokens).view(np.ndarray)
        self._offsets = np.asarray(store.offsets).view(np.ndarray)
        self._trained = None if store.trained is None else np.asarray(store.trained).view(np.ndarray)
        self._weights = None if store.weights is None else np.asarray(store.weights).view(np.ndarray)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the names of the folders, not as their content."""
        return PackedRows, (self.store, self.plan, self._stop, self.isolation)

    def __len__(self) -> int:
        """Number of rows."""
        return self._stop

    @property
    def mean_length(self) -> Fraction:
        """Input tokens of a row, on average."""
        return Fraction(int(self.plan.sizes[: self.plan.rows[self._stop]].sum()), self._stop)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of the rows at ``indices``."""
        first, end = self.plan.rows[indices], self.plan.rows[indices + 1]
        sizes = self.plan.sizes[_places(first, end)].astype(np.int64)
        return np.add.reduceat(sizes, _before(end - first)) if len(indices) else sizes

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One row of n tokens: ``input_ids`` and ``shift_labels``, int64 of shape (n,).

        Where documents are kept apart, also ``position_ids``, which begin again at 0 with each of them; where tokens have
        weights, also ``loss_weights``, those of the labels, float32.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        sample: dict[str, torch.Tensor] = self._read(np.array([index % len(self)]))[0]
        return sample

    def __getitems__(self, indices: list[int]) -> JoinedRows:
        """Many rows at once, in one piece of memory."""
        return self._read(np.array(indices, dtype=np.int64))

    def _read(self, rows: NDArray[np.int64]) -> JoinedRows:
        first, end = self.plan.rows[rows], self.plan.rows[rows + 1]
        pieces = _places(first, end)
        starts, sizes = self.plan.starts[pieces], self.plan.sizes[pieces].astype(np.int64)
        total, places = int(sizes.sum()), _before(sizes)
        positions = restarting(total, places)
        read = positions + np.repeat(starts, sizes)
        ids = self._tokens.take(read).astype(np.int64)
        labels = np.empty_like(ids)
        labels[:-1] = ids[1:]
        labels[places + sizes - 1] = self._tokens.take(starts + sizes, mode="clip")  # the store's last token has no successor
        self._mask(labels, read, starts + sizes, places + sizes)
        edges = np.append(places, total)[np.append(_before(end - first), len(pieces))]
        columns: dict[str, NDArray[Any]] = {"input_ids": ids, "shift_labels": labels}
        if self.isolation.are_apart:
            columns["position_ids"] = positions
        if self._weights is not None:
            columns[LOSS_WEIGHTS] = self._weights.take(read + 1, mode="clip")
        return JoinedRows(columns, edges.tolist())

    def _mask(self, labels: NDArray[np.int64], read: NDArray[np.int64], ends: NDArray[np.int64], behind: NDArray[np.int64]) -> None:
        """Take out what is no label, of pieces that end in front of ``ends`` in the store and of ``behind`` in what is read."""
        if self._trained is not None:
            labels[self._trained.take(read + 1, mode="clip") != 1] = NOT_TRAINED
        if self.plan.keep_last:
            whole = self._are_ends(ends)
            labels[behind[whole] - 1] = NOT_TRAINED
            if self.isolation.eod_mask_loss:
                several = whole & (np.diff(behind, prepend=0) > 1)
                labels[behind[several] - 2] = NOT_TRAINED
        if self.isolation.eod_mask_loss:
            labels[behind[self._are_ends(ends + 1)] - 1] = NOT_TRAINED

    def _are_ends(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a document ends in front of each of these tokens."""
        found: NDArray[np.bool_] = self._offsets[np.searchsorted(self._offsets[:-1], places)] == places
        return found


def _places(first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of several ranges, none of them empty, one range after the other."""
    counts = end - first
    return restarting(int(counts.sum()), _before(counts)) + np.repeat(first, counts)


def _before(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of the numbers before each."""
    return np.cumsum(numbers) - numbers
