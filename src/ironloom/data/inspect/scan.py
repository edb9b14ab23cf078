"""One pass over a store: what cannot be told from its boundaries alone. Memory is bounded but for eight bytes a sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from ironloom.data.store import Progress, TokenStore

_CHUNK = 1 << 22  # tokens that are in memory at a time, unless a single document is longer
_NAMED = 10  # documents that are named of each kind of fault


@dataclass
class Scan:
    """What was seen in the tokens of a store.

    Attributes:
        used: How often each id of the vocabulary occurs, int64 of shape (vocab_size,).
        outside: Tokens that are not in the vocabulary.
        with_outside: The first documents that hold such a token.
        trained: Tokens that the model has to produce; None where it has to produce all. The first token of a document has
            nothing before it, so it is never one of them.
        weight: What these weigh together; None where each weighs 1.
        untrained: Documents without a token that the model has to produce.
        without_trained: The first of them.
        empty: Documents that hold nothing, or an end token alone.
        hashes: XXH3 of the tokens of each sample, uint64 of shape (samples,).
    """

    used: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    outside: int = 0
    with_outside: list[int] = field(default_factory=list)
    trained: int | None = None
    weight: float | None = None
    untrained: int = 0
    without_trained: list[int] = field(default_factory=list)
    empty: int = 0


def scan(store: TokenStore, unit: int, end: int | None, progress: Progress | None = None) -> Scan:
    """Look at every token of a store.

    Args:
        store: What is looked at.
        unit: Documents that are one sample together, as the two answers of a pair.
        end: The end token.
        progress: Called now and then with the number of documents done.
    """
    found = Scan(np.zeros(store.vocab_size, dtype=np.int64), np.empty(store.num_documents // unit, dtype=np.uint64))
    if store.trained is not None:
        found.trained = 0
        found.weight = None if store.weights is None else 0.0
    for first, last in _chunks(store.offsets, unit):
        edges = np.asarray(store.offsets[first : last + 1]) - store.offsets[first]
        begin, stop = int(store.offsets[first]), int(store.offsets[last])
        tokens = _read(store.tokens, begin, stop)
        _count_ids(found, tokens, edges, first)
        if store.trained is not None:
            trained = _read(store.trained, begin, stop)
            _count_trained(found, trained, edges, first)
            if store.weights is not None:
                _count_weight(found, _read(store.weights, begin, stop), trained, edges)
        lengths = np.diff(edges)
        alone = edges[:-1][lengths == 1]
        found.empty += int((lengths == 0).sum()) + (0 if end is None else int((tokens[alone] == end).sum()))
        content = tokens.view(np.uint8).data
        places = (edges[::unit] * tokens.itemsize).tolist()
        hashes = [xxhash.xxh3_64_intdigest(content[start:stop]) for start, stop in itertools.pairwise(places)]
        found.hashes[first // unit : last // unit] = hashes
        if progress is not None:
            progress(last, "looking at the tokens", last / store.num_documents)
    return found


def _chunks(offsets: NDArray[np.int64], unit: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole samples with a bounded number of tokens."""
    first, documents = 0, (len(offsets) - 1) // unit * unit
    while first < documents:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1
        last = min(max(last // unit * unit, first + unit), documents)
        yield first, last
        first = last


def _read(array: NDArray[np.generic], start: int, stop: int) -> NDArray[np.generic]:
    """A part of a memory-mapped file as memory of its own, so that what was read does not add up."""
    if isinstance(array, np.memmap) and array.filename is not None:
        return np.fromfile(array.filename, array.dtype, stop - start, offset=start * array.itemsize)
    return np.array(array[start:stop])


def _count_ids(found: Scan, tokens: NDArray[np.generic], edges: NDArray[np.int64], first: int) -> None:
    size = len(found.used)
    ids = tokens.astype(np.int64)
    counts = np.bincount(np.minimum(ids, size), minlength=size + 1)
    found.used += counts[:size]
    if counts[size]:
        found.outside += int(counts[size])
        wrong = np.unique(np.searchsorted(edges, np.flatnonzero(ids >= size), side="right") - 1)
        found.with_outside += (first + wrong)[: _NAMED - len(found.with_outside)].tolist()


def _count_trained(found: Scan, trained: NDArray[np.generic], edges: NDArray[np.int64], first: int) -> None:
    assert found.trained is not None
    sums = np.concatenate([[0], np.cumsum(trained == 1)])
    behind = np.minimum(edges[:-1] + 1, edges[1:])
    numbers = sums[edges[1:]] - sums[behind]
    found.trained += int(numbers.sum())
    without = np.flatnonzero(numbers == 0)
    found.untrained += len(without)
    found.without_trained += (first + without)[: _NAMED - len(found.without_trained)].tolist()


def _count_weight(found: Scan, weights: NDArray[np.generic], trained: NDArray[np.generic], edges: NDArray[np.int64]) -> None:
    assert found.weight is not None
    counts = trained == 1
    starts = edges[:-1]
    counts[starts[starts < edges[1:]]] = False
    found.weight += float(weights[counts].sum(dtype=np.float64))
