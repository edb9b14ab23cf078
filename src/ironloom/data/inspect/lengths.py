"""How long documents are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram: documents of ``first`` to ``last`` tokens, both included."""

    first: int
    last: int
    documents: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of the documents of a store.

    Attributes:
        min: Of the shortest.
        median: Half of the documents have no more.
        mean: On average.
        p95: 95 of 100 documents have no more.
        max: Of the longest.
        histogram: Bars from powers of two on, from the shortest to the longest.
    """

    min: int
    median: float
    mean: float
    p95: float
    max: int
    histogram: list[Bin]


def lengths_of(lengths: NDArray[np.int64]) -> Lengths:
    """What is to be said of lengths, of which there is at least one."""
    median, p95 = np.percentile(lengths, [50, 95]).tolist()
    return Lengths(int(lengths.min()), median, float(lengths.mean()), p95, int(lengths.max()), _histogram(lengths))


def _histogram(lengths: NDArray[np.int64]) -> list[Bin]:
    low, high = int(lengths.min()), int(lengths.max())
    starts = [0, *(1 << power for power in range(high.bit_length()))]
    starts = [start for start, following in zip(starts, [*starts[1:], high + 1], strict=True) if following > low]
    edges = [*starts, high + 1]
    counts = np.histogram(lengths, bins=edges)[0].tolist()
    # The last bar of numpy's holds its right edge too, which no length has.
    return [Bin(start, stop - 1, count) for start, stop, count in zip(starts, edges[1:], counts, strict=True)]
