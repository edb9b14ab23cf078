"""Which of several sources gives the sample at a position: whole numbers over a period, spread evenly. Knows no dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ironloom.data.order import Permutation
from ironloom.device import random_key

MAX_PERIOD = 1 << 17
"""The longest period; shares that need a longer one are rounded to parts of this."""


class Schedule:
    """An endless sequence of sources that repeats itself, in which every source has its share of every beginning.

    Among the first ``n`` positions source ``j`` has more than ``n * share - 1`` and less than ``n * share + 1``: the
    sequence is a fair one of unit tasks (Baruah, Cohen, Plaxton, Varvel, "Proportionate progress", 1996), whose windows
    the earliest deadline first rule meets on a single processor.

    Args:
        counts: Positions of each source in a period, each at least 1.

    Attributes:
        period: Their sum.
        counts: As given.
    """

    def __init__(self, counts: Sequence[int]):
        self.counts = tuple(counts)
        self.period = sum(counts)
        self._sources = _fair(self.counts)
        self._slots = [np.flatnonzero(self._sources == source) for source in range(len(counts))]
        self._before = np.empty(self.period, dtype=np.int64)
        for slots in self._slots:
            self._before[slots] = np.arange(len(slots))
        self._counts = np.array(counts, dtype=np.int64)

    def __call__(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each position its source, and how many positions of that source come before it."""
        periods, places = np.divmod(positions, self.period)
        sources = self._sources[places]
        return sources, periods * self._counts[sources] + self._before[places]

    def position(self, source: int, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where a source has its turn for the ``draws``-th time, from 0."""
        periods, places = np.divmod(draws, self.counts[source])
        positions: NDArray[np.int64] = periods * self.period + self._slots[source][places]
        return positions

    def length(self, sizes: Sequence[int]) -> int:
        """Positions until source ``j`` has had ``sizes[j]`` of them, for the last source that reaches it."""
        ends = []
        for slots, size in zip(self._slots, sizes, strict=True):
            periods, place = divmod(size - 1, len(slots))
            ends.append(periods * self.period + int(slots[place]) + 1)
        return max(ends)


def counts_of(weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers in the proportions of ``weights``, exact where a period of ``MAX_PERIOD`` is long enough; each at least 1."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= MAX_PERIOD:
        return [int(share * period) for share in shares]
    counts = [max(1, round(share * MAX_PERIOD)) for share in shares]
    divisor = math.gcd(*counts)
    return [count // divisor for count in counts]


def as_fraction(ratio: float) -> Fraction:
    """What somebody meant who wrote a number: 0.7 is seven tenths, 0.3333333333333333 a third."""
    exact = Fraction(str(ratio))
    near = exact.limit_denominator(10_000)
    return near if abs(near - exact) * 10**12 < exact else exact


class MixedOrder:
    """The order of several sources that follow a schedule: every sample of a source comes once before any comes twice.

    The index of a sample is the first position at which the schedule would have it if every source came in its own order.

    Position ``i`` of epoch ``e`` is position ``e * length + i`` of the one sequence of the run, so that what an epoch has
    begun to repeat of a source is gone on with in the next one.

    Args:
        schedule: Whose turn it is.
        sizes: Samples of each source.
        names: What makes the permutations of sources differ.
        length: Samples of an epoch.
        seed: Seed of the permutations, together with the name of the source and how often it has been seen.
        shuffle: Whether sources are permuted; else each comes in its own order.
    """

    def __init__(self, schedule: Schedule, sizes: Sequence[int], names: Sequence[str], length: int, seed: int, shuffle: bool):
        self._schedule, self._sizes, self._names = schedule, tuple(sizes), tuple(names)
        self._length, self._seed, self._shuffle = length, seed, shuffle
        self._known: dict[int, tuple[int, Permutation]] = {}  # of each source the last permutation that was used

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indices at ``positions`` of an epoch, in their shape."""
        sources, draws = self._schedule(epoch * self._length + positions)
        indices = np.empty_like(draws)
        for source in np.unique(sources).tolist():
            chosen = sources == source
            passes, places = np.divmod(draws[chosen], self._sizes[source])
            if self._shuffle:
                for number in np.unique(passes).tolist():
                    here = passes == number
                    places[here] = self._permutation(source, number)(places[here])
            indices[chosen] = self._schedule.position(source, places)
        return indices

    def _permutation(self, source: int, number: int) -> Permutation:
        """That of a source when it is seen for the ``number``-th time, from 0."""
        known = self._known.get(source)
        if known is not None and known[0] == number:
            return known[1]
        permutation = Permutation(self._sizes[source], random_key("mixture", self._seed, self._names[source], number))
        self._known[source] = number, permutation
        return permutation


def _fair(counts: Sequence[int]) -> NDArray[np.int64]:
    """The source at each position of a period: of those whose turn has come, the one whose deadline is the earliest.

    The ``i``-th position of source ``j`` may not come before ``i * period / counts[j]`` rounded down, and has to come before
    ``(i + 1) * period / counts[j]`` rounded up.
    """
    period = sum(counts)
    releases, deadlines, given = [0] * len(counts), [-(-period // count) for count in counts], [0] * len(counts)
    sequence = []
    for position in range(period):
        source, earliest = -1, period + 1
        for number, deadline in enumerate(deadlines):
            if deadline < earliest and releases[number] <= position:
                source, earliest = number, deadline
        given[source] += 1
        releases[source] = given[source] * period // counts[source]
        deadlines[source] = -(-(given[source] + 1) * period // counts[source])
        sequence.append(source)
    return np.array(sequence, dtype=np.int64)
