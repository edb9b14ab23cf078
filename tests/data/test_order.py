"""The permutation: every sample once, in an order without pattern, at any position at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data.order import MAX_SAMPLES, Permutation


def excess(counts: np.ndarray) -> float:
    """Chi-square of counts against the uniform distribution, in standard deviations above its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_sample_comes_once(num_samples: int, key: int) -> None:
    shuffled = Permutation(num_samples, key)(np.arange(num_samples))
    assert sorted(shuffled.tolist()) == list(range(num_samples))


@settings(max_examples=40, deadline=None)
@given(num_samples=st.integers(1, MAX_SAMPLES), key=st.integers(0, 2**64 - 1), data=st.data())
def test_any_size_stays_in_range_and_keeps_positions_apart(num_samples: int, key: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, num_samples - 1), unique=True, max_size=50))
    shuffled = Permutation(num_samples, key)(np.array(positions, dtype=np.int64)).tolist()
    assert len(set(shuffled)) == len(positions)
    assert all(0 <= index < num_samples for index in shuffled)


@pytest.mark.parametrize("num_samples", [2, 3, 5, 16, 17, 100])
def test_the_first_positions_are_uniform_over_many_keys(num_samples: int) -> None:
    first = np.zeros(num_samples)
    pairs = np.zeros((num_samples, num_samples))
    for key in range(1000):
        one, two = Permutation(num_samples, key)(np.arange(2)).tolist()
        first[one] += 1
        pairs[one, two] += 1
    assert abs(excess(first)) < 5
    if num_samples <= 17:  # more than a few pairs in each cell, or the distribution is another
        assert abs(excess(pairs[~np.eye(num_samples, dtype=bool)])) < 5


def test_neighbours_are_unrelated() -> None:
    num_samples = 200_003
    shuffled = Permutation(num_samples, key=1)(np.arange(num_samples))
    assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < 0.01
    steps = (np.diff(shuffled) % num_samples) * 100 // num_samples
    assert abs(excess(np.bincount(steps, minlength=100).astype(float))) < 5


def test_keys_give_unrelated_orders() -> None:
    one, two = (Permutation(10_000, key)(np.arange(10_000)) for key in (1, 2))
    assert (one == two).mean() < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_a_far_position_is_reached_at_once() -> None:
    permutation = Permutation(10**12, key=3)
    took = []
    for attempt in range(5):
        start = time.perf_counter()
        permutation(10**9 + attempt)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.010


def test_one_position_is_that_of_the_array() -> None:
    permutation = Permutation(1000, key=4)
    table = permutation(np.arange(1000).reshape(10, 100))
    assert table.shape == (10, 100)
    assert permutation(437) == table[4, 37]


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_out_of_range_are_refused(position: int) -> None:
    with pytest.raises(IndexError, match="10 samples"):
        Permutation(10, key=0)(position)


@pytest.mark.parametrize("num_samples", [0, -1, MAX_SAMPLES + 1])
def test_sizes_out_of_range_are_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        Permutation(num_samples, key=0)
