"""Samples that occur more than once, known by their hashes: within a store, and in training and held-out data alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHOWN = 5


@dataclass(frozen=True)
class Repeated:
    """A sample that occurs more than once: its first place in the store, how often, and how it begins."""

    sample: int
    times: int
    text: str


@dataclass(frozen=True)
class Duplicates:
    """Samples of a store with the same tokens.

    Attributes:
        copies: Samples that are the same as an earlier one.
        groups: Different samples that occur more than once.
        most: The most frequent ones.
    """

    copies: int
    groups: int
    most: list[Repeated]


@dataclass(frozen=True)
class Part:
    """A range of a store's samples that has one use.

    Attributes:
        store: Its name.
        use: ``training``, ``evaluation`` or ``test``.
        start: The first sample.
        hashes: One for each sample.
    """

    store: str
    use: str
    start: int
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Same:
    """A held-out sample that is in the training data: its place there, its place here, and how it begins."""

    sample: int
    training_sample: int
    text: str


@dataclass(frozen=True)
class Leak:
    """Held-out samples that are in the training data.

    Attributes:
        use: ``evaluation`` or ``test``.
        store: The store that they lie in.
        training: The store that holds them too, as training data.
        samples: How many of the held-out samples; copies count.
        of: How many held-out samples there are.
        first: The first ones.
    """

    use: str
    store: str
    training: str
    samples: int
    of: int
    first: list[Same]


def repeated(hashes: NDArray[np.uint64]) -> tuple[int, int, list[tuple[int, int]]]:
    """Copies, samples that occur more than once, and for the most frequent of these: first place, number."""
    ordered = np.sort(hashes)
    same = ordered[1:] == ordered[:-1]
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    starts, times = edges[::2], edges[1::2] - edges[::2] + 1
    most = np.lexsort((ordered[starts], -times))[:SHOWN]
    found = [(int(np.argmax(hashes == ordered[starts[place]])), int(times[place])) for place in most]
    return int(same.sum()), len(starts), sorted(found, key=lambda each: (-each[1], each[0]))


def shared(held_out: Part, training: Part, ordered: NDArray[np.uint64]) -> tuple[int, list[tuple[int, int]]]:
    """How many held-out samples are in the training data, and for the first: place here, place there.

    Args:
        held_out: Evaluation or test data.
        training: Training data.
        ordered: Its hashes in order.
    """
    if not len(ordered):
        return 0, []
    places = np.minimum(np.searchsorted(ordered, held_out.hashes), len(ordered) - 1)
    both = np.flatnonzero(ordered[places] == held_out.hashes)
    first = [
        (held_out.start + int(place), training.start + int(np.argmax(training.hashes == held_out.hashes[place]))) for place in both[:SHOWN]
    ]
    return len(both), first


def uses(parts: Sequence[Part], use: str) -> list[Part]:
    """The parts that have this use."""
    return [part for part in parts if part.use == use]
