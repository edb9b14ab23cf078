"""Sources that take turns: exact shares over a period, fair at any time, every sample once before any comes twice."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data.schedule import MAX_PERIOD, MixedOrder, Schedule, as_fraction, counts_of

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@settings(max_examples=80, deadline=None)
@given(COUNTS)
def test_every_beginning_holds_each_share_within_one_sample(counts: list[int]) -> None:
    schedule, length = Schedule(counts), 3 * sum(counts)
    sources, before = schedule(np.arange(length))
    ends = np.arange(1, length + 1)
    for source, count in enumerate(counts):
        seen = np.cumsum(sources == source)
        assert np.abs(seen * schedule.period - ends * count).max() < schedule.period
        assert (before[sources == source] == np.arange(3 * count)).all()
        assert (schedule.position(source, np.arange(3 * count)) == np.flatnonzero(sources == source)).all()
        assert seen[schedule.period - 1 :: schedule.period].tolist() == [count, 2 * count, 3 * count]


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.data())
def test_an_epoch_ends_when_the_last_source_has_been_seen(counts: list[int], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 90), min_size=len(counts), max_size=len(counts)))
    schedule = Schedule(counts)
    length = schedule.length(sizes)
    seen = np.bincount(schedule(np.arange(length))[0], minlength=len(counts))
    assert (seen >= sizes).all()
    assert not (np.bincount(schedule(np.arange(length - 1))[0], minlength=len(counts)) >= sizes).all()


@pytest.mark.parametrize(
    ("ratios", "counts"),
    [
        ([0.7, 0.3], [7, 3]),
        ([7, 3], [7, 3]),
        ([0.9, 0.1], [9, 1]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([0.3, 0.5, 0.2], [3, 5, 2]),
        ([1.0, 1.0, 1.0], [1, 1, 1]),
        ([0.1, 0.2, 1.0], [1, 2, 10]),
        ([5.0], [1]),
    ],
)
def test_ratios_that_are_written_down_are_exact(ratios: list[float], counts: list[int]) -> None:
    assert counts_of([as_fraction(ratio) for ratio in ratios]) == counts


@given(st.lists(st.fractions(Fraction(1, 10**6), 10**6), min_size=1, max_size=9))
def test_others_are_as_near_as_a_period_allows(weights: list[Fraction]) -> None:
    counts = counts_of(weights)
    assert min(counts) >= 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(Fraction(count, sum(counts)) - weight / sum(weights)) < Fraction(len(weights) + 1, MAX_PERIOD)


def test_a_tiny_ratio_is_not_zero() -> None:
    assert counts_of([as_fraction(1e-9), as_fraction(1.0)]) == [1, MAX_PERIOD]


SIZES, NAMES = (11, 4, 30), ("a", "b", "c")


def mixed(seed: int = 7, shuffle: bool = True, counts: tuple[int, ...] = (5, 3, 2)) -> tuple[MixedOrder, int]:
    schedule = Schedule(counts)
    length = schedule.length(SIZES)
    return MixedOrder(schedule, SIZES, NAMES, length, seed, shuffle), length


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_of_a_source_comes_once_before_any_comes_twice_over_epochs_too(shuffle: bool) -> None:
    order, length = mixed(shuffle=shuffle)
    sequence = np.concatenate([order(epoch, np.arange(length)) for epoch in range(3)])
    sources, draws = Schedule((5, 3, 2))(sequence)
    assert (sources == Schedule((5, 3, 2))(np.arange(3 * length))[0]).all(), "the schedule goes on from epoch to epoch"
    passes = []
    for source, size in enumerate(SIZES):
        drawn = draws[sources == source]
        assert len(drawn) >= 3 * size, "each epoch sees the whole source"
        whole = drawn[: len(drawn) // size * size].reshape(-1, size)
        assert (np.sort(whole) == np.arange(size)).all(), "each sample has one index"
        passes.append([tuple(row) for row in whole.tolist()])
    if shuffle:
        assert all(len(set(rows)) == len(rows) for rows in passes[:1] + passes[2:]), "passes have orders of their own"
    else:
        assert all(row == tuple(range(len(row))) for rows in passes for row in rows)


def test_any_position_is_reached_directly() -> None:
    order, length = mixed()
    whole = order(2, np.arange(length))
    for start in (0, 1, length // 2, length - 1):
        assert (mixed()[0](2, np.arange(start, length)) == whole[start:]).all()
    assert (mixed()[0](2, np.arange(length).reshape(-1, 1))[:, 0] == whole).all()
    assert order(10**9, np.array([3])).tolist() == mixed()[0](10**9, np.array([3])).tolist()
    assert (mixed(seed=8)[0](2, np.arange(length)) != whole).any()


def test_the_order_of_one_source_does_not_depend_on_the_others() -> None:
    order, length = mixed()
    alone = MixedOrder(Schedule([1]), SIZES[2:], NAMES[2:], SIZES[2], 7, True)
    sources, draws = Schedule((5, 3, 2))(order(0, np.arange(length)))
    assert (draws[sources == 2][: SIZES[2]] == alone(0, np.arange(SIZES[2]))).all()
