"""Iterable datasets: the same batches from any start, for one worker or none, on any number of ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ironloom.data.stream import IterableLoader
from ironloom.errors import ConfigError, DataError


class Numbers:
    """Counts, told apart by epoch, with a random number for each item."""

    def __init__(self, size: int = 21):
        self.size = size
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        for number in range(self.size):
            yield self.epoch, number, random.random() + torch.rand(()).item()


def numbers(batches: Any) -> list[Any]:
    return [None if batch is None else [item[1] for item in batch] for batch in batches]


def loader(**options: Any) -> IterableLoader:
    options = {"dataset": Numbers(), "batch_size": 4, "collate": list, "seed": 2, **options}
    return IterableLoader(**options)


def test_a_stream_is_cut_into_batches() -> None:
    assert numbers(loader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19], [20]]
    assert numbers(loader(drop_last=True))[-1] == [16, 17, 18, 19]
    assert numbers(loader(dataset=Numbers(8))) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert numbers(loader(dataset=Numbers(0))) == []


def test_a_restart_and_a_worker_give_the_same_bits() -> None:
    whole = list(loader().iterate(3))
    assert {item[0] for batch in whole for item in batch} == {3}
    assert list(loader().iterate(3, 2)) == whole[2:]
    for persistent in (False, True):
        helped = loader(num_workers=1, persistent_workers=persistent)
        assert list(helped.iterate(3)) == whole
        assert list(helped.iterate(3, 2)) == whole[2:]
        assert list(helped.iterate(4)) == list(loader().iterate(4))
    assert list(loader().iterate(4)) != whole


def test_draws_between_batches_change_nothing() -> None:
    whole = list(loader())
    disturbed = []
    for batch in loader():
        random.random(), torch.rand(3)
        disturbed.append(batch)
    assert disturbed == whole


def test_ranks_share_each_batch() -> None:
    ranks = [numbers(loader(batch_size=2, rank=rank, size=3)) for rank in range(3)]
    assert ranks[1] == [[1, 4], [7, 10], [13, 16], [19]]
    alone = numbers(loader(batch_size=6))
    assert [sorted(itertools.chain(*step)) for step in zip(*ranks, strict=True)] == alone
    assert [numbers(loader(dataset=Numbers(4), batch_size=1, rank=rank, size=3)) for rank in range(3)] == [
        [[0], [3]],
        [[1], None],
        [[2], None],
    ]


def test_datasets_of_hugging_face_stream() -> None:
    import datasets

    dataset = datasets.Dataset.from_dict({"x": list(range(10))}).to_iterable_dataset()
    shuffled = dataset.shuffle(seed=1, buffer_size=10)
    epochs = [list(IterableLoader(shuffled, batch_size=5, collate=list).iterate(epoch)) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]


def test_the_length_is_not_known() -> None:
    with pytest.raises(TypeError, match="set max_steps"):
        len(loader())
    assert loader().num_samples is None


def test_more_than_one_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match="use 0 or 1"):
        loader(num_workers=2)


def test_an_iterator_is_refused() -> None:
    with pytest.raises(ConfigError, match="generator can be read only once"):
        loader(dataset=(number for number in range(3)))


class Broken(Numbers):
    def __iter__(self) -> Iterator[Any]:
        yield from range(5)
        raise OSError("gone")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_item_is_named(num_workers: int) -> None:
    with pytest.raises(DataError, match=r"^item 5 of epoch 1 could not be read: OSError: gone$") as caught:
        list(loader(dataset=Broken(), num_workers=num_workers).iterate(1))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_batch_that_cannot_be_collated_is_named() -> None:
    def collate(items: list[Any]) -> Any:
        raise KeyError("x")

    with pytest.raises(DataError, match=r"^batch 0 of epoch 0 \(items from 0 on\) could not be collated: KeyError: 'x'$"):
        list(loader(collate=collate))
