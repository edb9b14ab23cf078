"""Which samples make which batch, over ranks, sizes and restarts."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data.plan import BatchPlan


def plan(num_samples: int, batch_size: int, rank: int = 0, size: int = 1, **options: bool) -> BatchPlan:
    options = {"shuffle": True, "drop_last": False, **options}
    return BatchPlan(num_samples, batch_size, seed=7, rank=rank, size=size, **options)


def batches(num_samples: int, batch_size: int, rank: int = 0, size: int = 1, epoch: int = 0, **options: bool) -> list[list[int]]:
    return [request.indices for request in plan(num_samples, batch_size, rank, size, **options).requests(epoch)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_ranks_share_each_epoch_without_repeating_a_sample(num_samples: int, batch_size: int, size: int, drop_last: bool) -> None:
    ranks = [batches(num_samples, batch_size, rank, size, drop_last=drop_last) for rank in range(size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(plan(num_samples, batch_size, 0, size, drop_last=drop_last))
    seen = sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(ranks)))
    assert len(seen) == len(set(seen))
    global_size = batch_size * size
    assert len(seen) == (num_samples // global_size * global_size if drop_last else num_samples)
    if ranks[0]:
        last = [len(rank[-1]) for rank in ranks]
        assert max(last) - min(last) <= 1


@pytest.mark.parametrize(("batch_size", "size"), [(12, 1), (6, 2), (4, 3), (2, 6), (1, 12)])
def test_another_number_of_ranks_sees_the_same_samples_in_each_step(batch_size: int, size: int) -> None:
    alone = [sorted(batch) for batch in batches(100, 12)]
    ranks = [batches(100, batch_size, rank, size) for rank in range(size)]
    assert [sorted(itertools.chain(*step)) for step in zip(*ranks, strict=True)] == alone


def test_starting_later_gives_the_same_batches() -> None:
    whole = list(plan(1000, 7).requests(3))
    for start in (0, 1, 50, 142, 143):
        assert list(plan(1000, 7).requests(3, start)) == whole[start:]


def test_chunks_leave_no_seam() -> None:
    numbers = [request.number for request in plan(40_000, 3).requests(0)]
    assert numbers == list(range(len(plan(40_000, 3))))
    assert sorted(itertools.chain(*batches(40_000, 3))) == list(range(40_000))


def test_epochs_have_their_own_orders() -> None:
    assert batches(100, 10, epoch=0) != batches(100, 10, epoch=1)
    assert batches(100, 10, epoch=1) == batches(100, 10, epoch=1)


def test_without_shuffling_the_order_is_that_of_the_dataset() -> None:
    assert batches(7, 3, shuffle=False) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches(7, 3, shuffle=False, drop_last=True) == [[0, 1, 2], [3, 4, 5]]


def test_fewer_samples_left_than_ranks_leave_some_without() -> None:
    ranks = [batches(5, 1, rank, 4, shuffle=False) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [2, 2, 2, 2]
    assert sorted(itertools.chain(*(rank[1] for rank in ranks))) == [4]


def test_position_is_that_of_the_first_sample() -> None:
    requests = list(plan(23, 3, rank=1, size=2, shuffle=False).requests(0))
    assert [request.position for request in requests] == [request.indices[0] for request in requests]


def test_a_batch_far_into_a_long_epoch_costs_nothing() -> None:
    far = plan(10**12, 8)
    start = time.perf_counter()
    request = next(far.requests(0, 10**11))
    assert time.perf_counter() - start < 0.010 * 5
    assert request.position == 8 * 10**11
