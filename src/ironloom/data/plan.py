"""Which samples make which batch: epochs, batch numbers, ranks. Knows no dataset, only its length."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np

from ironloom.data.order import EpochOrder, Order

_CHUNK = 8192  # positions that are permuted in one go, to spread the cost of a NumPy call


class Request(NamedTuple):
    """One rank's share of one global batch.

    Attributes:
        epoch: The epoch, from 0.
        number: The batch's number in the epoch, from 0, the same on every rank.
        position: Position in the epoch of the first sample of the share.
        indices: The dataset's indices of the share; empty when a last batch holds fewer samples than there are ranks.
    """

    epoch: int
    number: int
    position: int
    indices: list[int]


class BatchPlan:
    """Cuts the order of each epoch into global batches and these into the shares of the ranks.

    Global batch ``i`` covers the positions ``[i * B * size, (i + 1) * B * size)``, of which rank ``r`` takes the
    ``r``-th slice of ``B``: another ``size`` and ``B`` with the same product gives the same samples per global
    batch. What is left at the end of an epoch is a shorter global batch, cut so evenly that shares differ by one
    sample at the most; every rank has the same number of batches, and none repeats a sample.

    Args:
        num_samples: Samples in the dataset, of all ranks together.
        batch_size: ``B``, samples per batch and rank.
        seed: Names the order, together with the epoch.
        shuffle: Whether positions are permuted; else position and index are equal.
        drop_last: Whether an incomplete last global batch is left out.
        rank: This rank among those that read different samples.
        size: Their number.
        order: The order of a dataset that has its own, see ``order.Ordered``; None: ``seed`` and ``shuffle`` make it.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int,
        size: int,
        order: Order | None = None,
    ):
        self.num_samples = num_samples
        self.order = order or EpochOrder(num_samples, seed, shuffle)
        self._batch_size = batch_size
        self._rank = rank
        self._size = size
        self._global_size = batch_size * size
        self._num_full, remainder = divmod(num_samples, self._global_size)
        self._remainder = 0 if drop_last else remainder

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        return self._num_full + (self._remainder > 0)

    def requests(self, epoch: int, start: int = 0) -> Iterator[Request]:
        """The batches ``start``, ``start + 1`` ... of an epoch; what lies before costs nothing."""
        if start >= len(self):
            return
        in_batch = self._rank * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        chunk = max(1, _CHUNK // self._batch_size)
        for first in range(start, self._num_full, chunk):
            numbers = np.arange(first, min(first + chunk, self._num_full), dtype=np.int64)
            positions = numbers[:, None] * self._global_size + in_batch
            indices = self.order(epoch, positions)
            for number, position, row in zip(numbers.tolist(), positions[:, 0].tolist(), indices.tolist(), strict=True):
                yield Request(epoch, number, position, row)
        if self._remainder:
            yield self._last_request(epoch)

    def _last_request(self, epoch: int) -> Request:
        base = self._num_full * self._global_size
        low = base + self._remainder * self._rank // self._size
        high = base + self._remainder * (self._rank + 1) // self._size
        positions = np.arange(low, high, dtype=np.int64)
        return Request(epoch, self._num_full, low, self.order(epoch, positions).tolist())


def steps_of_epochs(dataset: Sized, samples_per_step: int, epochs: float) -> int:
    """Optimizer steps in ``epochs`` passes over a dataset, the last of each pass perhaps with fewer samples; at least 1."""
    return max(1, round(epochs * -(-len(dataset) // samples_per_step)))
