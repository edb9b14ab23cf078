"""Which documents share a row: best fit, decreasing. Pure functions of lengths; knows neither tokens nor files.

Best fit takes documents from the longest to the shortest, each into the row in which it leaves the least room, or into a new
row. Rows with equal room are alike, and so are documents of equal length: both are counted, not visited, so that the work
grows with the number of different lengths (as in Krell et al. 2021, arXiv:2107.02027; the rows are those of plain best fit).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 1 << 18
"""Documents that are packed at a time: memory is bounded by it, and the rows keep the order of the corpus beyond it."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The rows of some documents.

    Attributes:
        starts: Where each piece of a document starts, in tokens of the store; row after row, shape (pieces,).
        sizes: Tokens of each piece that a model is given, shape (pieces,).
        counts: Pieces of each row, shape (rows,).
        cut: Documents that were cut because they are longer than a row.
        left_out: Documents of a single token, which has nothing to predict.
    """

    starts: Numbers
    sizes: Numbers
    counts: Numbers
    cut: int
    left_out: int


def windows(offsets: NDArray[np.int64], start: int, stop: int, row_length: int, keep_last: bool) -> Iterator[Window]:
    """Rows of the documents ``start`` to ``stop``, a window at a time.

    Every token that has a successor in its document is the input of exactly one place of one row. A document that fits into a row is
    in one piece. A longer one is cut into full rows and a rest, which takes part in the packing as a document does.

    Args:
        offsets: Where each document starts and the last one ends, shape (documents + 1,).
        start: First document.
        stop: End of the documents.
        row_length: Tokens that a model is given at most.
        keep_last: Whether a model is given the last token of each document, too, unless it would be alone; it has nothing to predict
            there, and separates the document from the next one where they see each other.
    """
    for begin in range(start, stop, WINDOW):
        yield _window(np.asarray(offsets[begin : min(begin + WINDOW, stop) + 1]), row_length, keep_last)


def _window(offsets: Numbers, row_length: int, keep_last: bool) -> Window:
    lengths = np.diff(offsets)
    used = lengths > 1  # a single token would stand for nothing but itself
    firsts, sizes = offsets[:-1][used], lengths[used] - 1
    if keep_last:  # unless it would be a piece of its own, which teaches nothing
        sizes += sizes % row_length > 0
    pieces = -(-sizes // row_length)
    # The pieces of each document, in the order of the corpus; all but the last of a document are full rows.
    places = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(firsts, pieces) + places * row_length
    sizes = np.minimum(np.repeat(sizes, pieces) - places * row_length, row_length)
    packed = np.flatnonzero(sizes < row_length)
    full = np.flatnonzero(sizes == row_length)
    rows = np.empty(len(sizes), dtype=np.int64)
    rows[packed], num_packed = best_fit(sizes[packed], row_length)
    rows[full] = num_packed + np.arange(len(full))
    # Rows come in the order of their first pieces: that of the corpus, as near as can be.
    _, first_pieces = np.unique(rows, return_index=True)
    rank = np.empty(len(first_pieces), dtype=np.int64)
    rank[np.argsort(first_pieces)] = np.arange(len(first_pieces))
    order = np.argsort(rank[rows], kind="stable")
    counts = np.bincount(rank[rows], minlength=len(rank))
    return Window(starts[order], sizes[order], counts, int((pieces > 1).sum()), int((~used).sum()))


def best_fit(sizes: Numbers, row_length: int) -> tuple[Numbers, int]:
    """The row of each item by best fit, decreasing.

    Args:
        sizes: Of each item, from 1 to ``row_length``.
        row_length: Room of an empty row.

    Returns:
        The number of each item's row, shape (items,), and the number of rows. Of items of one size the earlier has the lower place.
    """
    if not len(sizes):
        return np.empty(0, dtype=np.int64), 0
    assert sizes.min() >= 1 and sizes.max() <= row_length
    shares: list[tuple[int, int, int, int]] = []  # size, how many of it in each row, number of rows, first of the rows
    row = 0
    for content, number in _filled(sizes, row_length):
        share: _Content | None = content
        while share is not None:
            share, size, times = share
            shares.append((size, times, number, row))
        row += number
    size, times, number, first = np.array(shares, dtype=np.int64)[np.argsort([-share[0] for share in shares], kind="stable")].T
    items = times * number
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(items) - items, items)
    rows = np.empty(len(sizes), dtype=np.int64)
    rows[np.argsort(-sizes, kind="stable")] = np.repeat(first, items) + within // np.repeat(times, items)
    return rows, row


_Content = tuple["_Content | None", int, int]
"""What a row has: its content before, the size that was added, and how often."""


def _filled(sizes: Numbers, row_length: int) -> list[tuple[_Content, int]]:
    """Kinds of rows, by content, and the number of each."""
    groups: list[list[tuple[_Content | None, int]]] = [[] for _ in range(row_length + 1)]  # by the room that is left
    open_rooms = 0  # bit r: there are rows with room r

    def add(room: int, content: _Content | None, number: int) -> None:
        nonlocal open_rooms
        if number:
            groups[room].append((content, number))
            open_rooms |= 1 << room

    numbers = np.bincount(sizes, minlength=row_length + 1)
    for size in np.flatnonzero(numbers)[::-1].tolist():
        left = int(numbers[size])
        while left:
            fitting = open_rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                content, number = groups[room].pop()
                if not groups[room]:
                    open_rooms ^= 1 << room
            else:
                room, content, number = row_length, None, -(-left // (row_length // size))
            # A row that has just got an item has the least room of all, so it gets the next one, too, as long as it fits.
            times = room // size
            filled = min(number, left // times)
            add(room - times * size, (content, size, times), filled)
            left, number = left - filled * times, number - filled
            if number and left:  # fewer than would fit
                add(room - left * size, (content, size, left), 1)
                left, number = 0, number - 1
            add(room, content, number)
    return [(content, number) for group in groups for content, number in group if content is not None]
