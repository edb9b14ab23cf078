"""Which documents share a row: nothing lost, nothing cut that fits, rows well filled, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data import packing
from ironloom.data.builtin import python_docs
from ironloom.data.packing import Numbers, best_fit, windows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def offsets_of(lengths: list[int] | Numbers, begin: int = 0) -> Numbers:
    return begin + np.concatenate([[0], np.cumsum(lengths)])


def rows_of(offsets: Numbers, row_length: int, *, start: int = 0, stop: int | None = None, keep_last: bool = False) -> list[list[range]]:
    """The rows, as the places in the store that a model is given."""
    rows = []
    for window in windows(offsets, start, len(offsets) - 1 if stop is None else stop, row_length, keep_last):
        pieces = [range(begin, begin + size) for begin, size in zip(window.starts.tolist(), window.sizes.tolist(), strict=True)]
        for number in window.counts.tolist():
            rows.append(pieces[:number])
            del pieces[:number]
        assert not pieces
    return rows


def plain_best_fit(sizes: list[int], row_length: int) -> list[int]:
    """The room that best fit, decreasing, leaves in each row; the textbook's loop."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [place for place, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(row_length - size)
    return sorted(rooms)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=80))
def test_rows_are_those_of_plain_best_fit(sizes: list[int]) -> None:
    rows, number = best_fit(np.array(sizes, dtype=np.int64), 30)
    rooms = 30 - np.bincount(rows, weights=sizes, minlength=number)
    assert sorted(rooms.tolist()) == plain_best_fit(sizes, 30)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 24), st.booleans(), st.integers(1, 20))
def test_every_token_comes_once_and_no_document_is_cut_that_fits(lengths: list[int], row_length: int, keep_last: bool, window: int) -> None:
    offsets = offsets_of(lengths, begin=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", window)
        rows = rows_of(offsets, row_length, keep_last=keep_last)
        assert rows == rows_of(offsets, row_length, keep_last=keep_last)
        told = list(windows(offsets, 0, len(lengths), row_length, keep_last))
    assert all(0 < sum(map(len, row)) <= row_length for row in rows)
    places = sorted(place for row in rows for piece in row for place in piece)
    used = [(begin, length - 1) for begin, length in zip(offsets.tolist(), lengths, strict=False) if length > 1]
    used = [(begin, size + (keep_last and size % row_length > 0)) for begin, size in used]
    assert places == [place for begin, size in used for place in range(begin, begin + size)]
    pieces = sorted((piece.start, len(piece)) for row in rows for piece in row)
    expected = [(begin + at, min(row_length, size - at)) for begin, size in used for at in range(0, size, row_length)]
    assert pieces == expected  # whole where it fits, full rows and a rest else
    assert sum(each.cut for each in told) == sum(size > row_length for _, size in used)
    assert sum(each.left_out for each in told) == lengths.count(1)


def test_rows_keep_the_order_of_the_corpus_as_near_as_can_be() -> None:
    lengths = np.random.default_rng(0).integers(2, 30, 500)
    rows = rows_of(offsets_of(lengths), 32)
    firsts = [row[0].start for row in rows]
    assert firsts == sorted(firsts)
    assert all([piece.start for piece in row] == sorted(piece.start for piece in row) for row in rows)


@pytest.mark.parametrize("keep_last", [False, True])
def test_a_document_that_fills_rows_exactly_leaves_no_rest(keep_last: bool) -> None:
    """Where the reference leaves a piece of its own with a begin or end token alone."""
    assert rows_of(offsets_of([9]), 8, keep_last=keep_last) == [[range(8)]]
    assert rows_of(offsets_of([17]), 8, keep_last=keep_last) == [[range(8)], [range(8, 16)]]
    assert rows_of(offsets_of([10]), 8, keep_last=keep_last) == [[range(8)], [range(8, 10 if keep_last else 9)]]


def test_a_range_of_documents_is_packed_alone() -> None:
    offsets = offsets_of([5, 9, 3, 3, 20, 4])
    rows = rows_of(offsets, 8, start=1, stop=4)
    assert sorted(place for row in rows for piece in row for place in piece) == [*range(5, 13), 14, 15, 17, 18]
    assert len(rows) == 2


@pytest.mark.parametrize("row_length", [256, 1024, 4096])
def test_rows_are_filled_to_98_per_cent_and_more(row_length: int) -> None:
    rng = np.random.default_rng(1)
    corpora = {
        "lognormal": rng.lognormal(5.5, 1.2, 60_000).astype(np.int64) + 2,
        "many short": rng.integers(2, 60, 60_000),
        "few long": rng.integers(2, 3 * row_length, 20_000),
        "mixed": np.concatenate([rng.integers(2, 40, 30_000), rng.integers(row_length // 2, row_length + 1, 100)]),
        "real text": np.array([len(text) // 4 + 1 for text in python_docs()]),
    }
    for name, lengths in corpora.items():
        found = list(windows(offsets_of(lengths), 0, len(lengths), row_length, False))
        num_rows = sum(len(window.counts) for window in found)
        num_tokens = sum(int(window.sizes.sum()) for window in found)
        fewest = -(-num_tokens // row_length)  # less than full by what the last row lacks, which counts where there are few
        assert num_tokens / (num_rows * row_length) > 0.98 or num_rows == fewest, name


def test_a_million_documents_are_a_matter_of_seconds() -> None:
    lengths = np.random.default_rng(2).lognormal(5.5, 1.2, 1_000_000).astype(np.int64) + 2
    found = list(windows(offsets_of(lengths), 0, len(lengths), 1024, False))
    assert sum(int(window.sizes.sum()) for window in found) == int((lengths - 1).sum())
