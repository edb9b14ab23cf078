"""The loader in one process: what it yields is a function of seed, epoch and batch number."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
import torch

from ironloom.data.fetch import BatchReader
from ironloom.data.loader import Loader, make_loader, pin
from ironloom.data.stream import IterableLoader
from ironloom.device import generator_states, random_key, restore_generators, seed_everything
from ironloom.errors import ConfigError, DataError


class Random:
    """Draws from all three generators, for every sample for some, or (``every=0``) never."""

    def __init__(self, size: int = 50, every: int = 1):
        self.size = size
        self.every = every

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[float, ...]:
        if self.every == 0 or index % self.every:
            return (index, 0.0, 0.0, 0.0)
        return (index, random.random(), float(np.random.standard_normal()), torch.rand(()).item())


class Batched(Random):
    """The same through PyTorch's protocol for many samples at once."""

    calls: int = 0

    def __getitems__(self, indices: list[int]) -> list[tuple[float, ...]]:
        self.calls += 1
        return [super(Batched, self).__getitem__(index) for index in indices]


def stack(samples: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return list(samples)


def noisy(samples: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    return [*samples, (random.random(), float(np.random.random()), torch.rand(()).item())]


def always_seeded(loader: Loader, collate: Any, seed: int, epoch: int) -> list[Any]:
    """What the contract says, the slow way: seed before every sample and before every collation."""
    expected = []
    position = 0
    for indices in [[int(sample[0]) for sample in batch[: loader.batch_size]] for batch in order_of(loader, seed, epoch)]:
        samples = []
        for index in indices:
            seed_everything(random_key("sample", seed, epoch, index))
            samples.append(Random.__getitem__(loader.dataset, index))  # type: ignore[arg-type]
        seed_everything(random_key("batch", seed, epoch, position))
        expected.append(collate(samples))
        position += len(indices)
    return expected


def order_of(loader: Loader, seed: int, epoch: int) -> list[Any]:
    quiet = Random(loader.num_samples, every=0)
    return list(Loader(quiet, batch_size=loader.batch_size, collate=stack, seed=seed).iterate(epoch))


@pytest.mark.parametrize("every", [1, 7, 0])
@pytest.mark.parametrize("kind", [Random, Batched])
@pytest.mark.parametrize("collate", [stack, noisy])
def test_randomness_is_that_of_seeding_every_sample(kind: type[Random], collate: Any, every: int) -> None:
    loader = Loader(kind(every=every), batch_size=4, collate=collate, seed=3)
    for epoch in (0, 2):
        assert list(loader.iterate(epoch)) == always_seeded(loader, collate, 3, epoch)


@pytest.mark.parametrize("start", [0, 1, 5, 12])
def test_a_restart_continues_with_the_same_bits(start: int) -> None:
    whole = list(Loader(Random(every=5), batch_size=4, collate=noisy, seed=1).iterate(1))
    assert list(Loader(Random(every=5), batch_size=4, collate=noisy, seed=1).iterate(1, start)) == whole[start:]


def test_what_others_draw_between_batches_changes_nothing() -> None:
    whole = list(Loader(Random(), batch_size=4, collate=noisy))
    disturbed = []
    for batch in Loader(Random(), batch_size=4, collate=noisy):
        disturbed.append(batch)
        random.random(), np.random.random(3), torch.rand(7)
        seed_everything(len(disturbed))
    assert disturbed == whole


def test_random_transforms_of_hugging_face_datasets_are_keyed() -> None:
    import datasets

    def transform(rows: dict[str, list[int]]) -> dict[str, list[float]]:
        return {"x": [value + random.random() for value in rows["x"]]}

    dataset = datasets.Dataset.from_dict({"x": list(range(20))})
    dataset.set_transform(transform)
    batches = list(Loader(dataset, batch_size=4, collate=list, seed=5))
    reader = BatchReader(dataset, list, 5)
    for batch in batches:
        for row in batch:
            index = int(row["x"])
            assert reader._sample(0, index) == row  # read alone, in whatever batch it stands


def test_transforms_that_do_not_draw_are_called_once_for_a_batch() -> None:
    dataset = Batched(every=0)
    list(Loader(dataset, batch_size=10, collate=stack))
    assert dataset.calls == 5


def test_a_dataset_that_draws_is_read_twice_only_until_that_is_known() -> None:
    class Counting(Random):
        read = 0

        def __getitem__(self, index: int) -> tuple[float, ...]:
            self.read += 1
            return super().__getitem__(index)

    dataset = Counting(40)
    loader = Loader(dataset, batch_size=4, collate=stack)
    list(loader.iterate(0))
    list(loader.iterate(1))
    assert dataset.read == 40 + 4 + 40


def test_seed_and_epoch_name_the_order() -> None:
    def order(seed: int, epoch: int) -> list[Any]:
        return list(Loader(list(range(40)), batch_size=8, collate=list, seed=seed).iterate(epoch))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)
    assert list(Loader(list(range(40)), batch_size=8, collate=list)) == order(0, 0)


def test_lengths_and_attributes() -> None:
    data = list(range(10))
    loader = Loader(data, batch_size=4, collate=list)
    assert (len(loader), loader.num_samples, loader.batch_size, loader.dataset) == (3, 10, 4, data)
    assert len(Loader(data, batch_size=4, collate=list, drop_last=True)) == 2
    assert len(Loader(data, batch_size=2, collate=list, rank=1, size=2)) == 3
    assert [len(batch) for batch in Loader(data, batch_size=4, collate=list, rank=1, size=2)] == [4, 1]
    assert list(Loader([], batch_size=4, collate=list)) == []


def test_a_rank_without_a_share_of_the_last_batch_yields_none() -> None:
    ranks = [list(Loader([0, 1, 2], batch_size=1, collate=list, rank=rank, size=2, shuffle=False)) for rank in (0, 1)]
    assert ranks == [[[0], None], [[1], [2]]]


def test_batches_before_the_start_are_not_read() -> None:
    class Counting(Random):
        read = 0

        def __getitem__(self, index: int) -> Any:
            self.read += 1
            return index

    dataset = Counting(10**12)
    loader = Loader(dataset, batch_size=4, collate=list)
    start = time.perf_counter()
    next(loader.iterate(0, 10**11))
    assert time.perf_counter() - start < 0.05
    assert dataset.read == 4


def test_a_start_beyond_the_epoch_is_refused() -> None:
    loader = Loader([1, 2, 3], batch_size=1, collate=list)
    assert list(loader.iterate(0, 3)) == []
    with pytest.raises(DataError, match="batch 4 of epoch 0 was asked for, but an epoch has 3"):
        loader.iterate(0, 4)
    with pytest.raises(ValueError, match="count from 0"):
        loader.iterate(0, -1)


def test_an_unreadable_sample_is_named() -> None:
    class Broken(Random):
        def __getitem__(self, index: int) -> Any:
            if index == 17:
                raise KeyError("text")
            return index

    with pytest.raises(DataError, match=r"^sample 17 of epoch 2 could not be read: KeyError: 'text'$") as caught:
        list(Loader(Broken(), batch_size=4, collate=list).iterate(2))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_batch_that_cannot_be_collated_is_named() -> None:
    def collate(samples: list[int]) -> None:
        if 4 in samples:
            raise TypeError("no")

    with pytest.raises(DataError, match=r"^batch 1 of epoch 0 \(samples 3, 4, 5\) could not be collated: TypeError: no$"):
        list(Loader(list(range(9)), batch_size=3, collate=collate, shuffle=False))


def test_running_out_of_memory_is_not_called_a_fault_of_the_data() -> None:
    class Huge(Random):
        def __getitem__(self, index: int) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        list(Loader(Huge(), batch_size=3, collate=list))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"rank": 2, "size": 2}, "rank: expected a rank from 0 to 1, found 2"),
        ({"num_workers": -1}, "num_workers: expected at least 0"),
        ({"prefetch_factor": 2}, "prefetch_factor: has no effect without workers"),
        ({"persistent_workers": True}, "persistent_workers: has no effect without workers"),
        ({"prefetch_factor": 0, "num_workers": 1}, "prefetch_factor: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader([1, 2], **{"batch_size": 1, "collate": list, **options})


def test_make_loader_picks_by_the_kind_of_dataset() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(range(4))

    class TorchStream(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(4))

        def __len__(self) -> int:
            return 4

    options: dict[str, Any] = {"batch_size": 2, "collate": list}
    assert isinstance(make_loader([1, 2, 3], shuffle=False, **options), Loader)
    assert list(make_loader([1, 2, 3], shuffle=False, **options)) == [[1, 2], [3]]
    for stream in (Stream(), TorchStream()):
        assert isinstance(make_loader(stream, **options), IterableLoader)
    with pytest.raises(ConfigError, match="a mapping with 'train', 'test': choose one"):
        make_loader({"train": [1], "test": [2]}, **options)
    with pytest.raises(ConfigError, match="int has neither"):
        make_loader(3, **options)


def test_pinning_keeps_the_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    from transformers import BatchEncoding

    one = torch.zeros(1)
    assert pin({"a": one, "b": [one, (one, "text")]}) == {"a": one + 1, "b": [one + 1, (one + 1, "text")]}
    encoding = pin(BatchEncoding({"a": one}))
    assert isinstance(encoding, BatchEncoding)
    assert encoding["a"] == 1


def test_reading_a_batch_costs_little_beyond_the_dataset() -> None:
    data = [{"x": index} for index in range(16_000)]

    def collate(samples: list[Any]) -> Any:
        return samples

    best = float("inf")
    for epoch in range(5):
        loader = Loader(data, batch_size=8, collate=collate)
        start = time.perf_counter()
        for _ in loader.iterate(epoch):
            pass
        best = min(best, (time.perf_counter() - start) / len(loader))
    # Measured: about 12 microseconds on a quiet machine. Seeding each sample would be 100.
    assert best < 60e-6


def test_looking_for_draws_sees_each_generator() -> None:
    from ironloom.data.draws import DrawDetector

    states = generator_states()
    detector = DrawDetector()
    after = generator_states()
    assert states[0] == after[0]  # making one draws nothing
    assert torch.equal(states[2], after[2])
    for draw in (random.random, np.random.standard_normal, lambda: torch.rand(1), lambda: torch.randn(1), lambda: random.seed(1)):
        detector.arm()
        assert not detector.drawn()
        detector.arm()
        draw()
        assert detector.drawn()
    restore_generators(states)
