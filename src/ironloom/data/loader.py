"""The loader: what the loop asks for batches. Its only state is a pair of numbers, epoch and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ironloom.data.blocks import TokenBlocks
from ironloom.data.fetch import BatchReader, Collate, MapDataset
from ironloom.data.mixture import Mixture, SourceCounter
from ironloom.data.order import Ordered
from ironloom.data.packed import PackedRows
from ironloom.data.plan import BatchPlan
from ironloom.data.rows import TrainedRows
from ironloom.data.workers import WorkerPool
from ironloom.errors import ConfigError, DataError, Problem


class Loader:
    """Batches of a map-style dataset, in an order that is a function of seed and epoch: its own if it has one (``order.Ordered``).

    Order, samples and the randomness inside them depend neither on the number of workers nor on where
    the iteration starts. :class:`ironloom.data.plan.BatchPlan` says which samples make which batch,
    :class:`ironloom.data.fetch.BatchReader` what is promised about randomness.

    With several ranks every one of them yields the same number of batches. Where the last global batch
    of an epoch has fewer samples than there are ranks, the ranks that get none yield None.

    Args:
        dataset: Has ``__len__`` and ``__getitem__``, may have ``__getitems__``.
        batch_size: Samples per batch and rank.
        collate: Makes a batch from a list of samples.
        seed: Seed of order and randomness.
        shuffle: Whether each epoch has its own random order; else samples come in the order of the dataset.
        drop_last: Whether an incomplete last global batch is left out.
        rank: This rank among those that read different samples.
        size: Their number.
        num_workers: Processes that read ahead; 0 to read in this one.
        prefetch_factor: Batches that each worker reads ahead; None for PyTorch's default (2).
        persistent_workers: Whether workers live on from one epoch to the next.
        pin_memory: Whether batches are moved to page-locked memory. Without an accelerator there is none to copy to,
            and batches stay where they are.

    Attributes:
        sources: Counts what a mixture has given; None for other data.

    Raises:
        ConfigError: For sizes out of range and for settings of workers where there are none.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        batch_size: int,
        collate: Collate,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory: bool = False,
    ):
        check_sizes(batch_size, rank, size, num_workers, prefetch_factor, persistent_workers)
        self.dataset = dataset
        self.batch_size = batch_size
        self.global_batch_size = batch_size * size
        self.num_samples = len(dataset)
        order = dataset.order_of_samples(seed, shuffle) if isinstance(dataset, Ordered) else None
        self._plan = BatchPlan(
            self.num_samples, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, rank=rank, size=size, order=order
        )
        self.sources = SourceCounter(dataset, self._plan.order) if isinstance(dataset, Mixture) else None
        pinned = pin_memory and torch.accelerator.is_available()
        self._pin: Callable[[Any], Any] | None = pin if pinned else None
        self._reader = BatchReader(dataset, collate, seed)
        self._workers: WorkerPool | None = None
        if num_workers:
            self._workers = WorkerPool(
                dataset,
                collate,
                seed,
                self._plan,
                num_workers=num_workers,
                prefetch_factor=prefetch_factor,
                persistent_workers=persistent_workers,
                pin_memory=pinned,
            )

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(epoch=0)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start + 1`` ... of an epoch. What lies before ``start`` is not read.

        In this process the global random generators are seeded anew for each batch; their state is not put back.

        Args:
            epoch: The epoch, from 0.
            start: Number of the first batch, up to ``len(self)``, where nothing is left.

        Raises:
            DataError: If the epoch has fewer than ``start`` batches; while iterating, if a sample cannot be read, a
                batch cannot be collated, or a worker dies.
        """
        check_place(epoch, start)
        if start > len(self):
            raise DataError(
                f"batch {start} of epoch {epoch} was asked for, but an epoch has {len(self)} batches: "
                "is this the dataset and the batch size that the run was started with?"
            )
        if self._workers is not None:
            return self._workers.iterate(epoch, start)
        return self._iterate_here(epoch, start)

    def _iterate_here(self, epoch: int, start: int) -> Iterator[Any]:
        read, pin_batch = self._reader.read, self._pin
        for request in self._plan.requests(epoch, start):
            batch = read(request)
            yield batch if pin_batch is None else pin_batch(batch)


def make_loader(dataset: Any, *, shuffle: bool = True, **options: Any) -> Any:
    """A :class:`Loader` for a map-style dataset, an ``IterableLoader`` for a stream.

    Args:
        dataset: The samples. A token store is read in this process whatever ``num_workers`` says: that takes a few
            microseconds a batch, and sending it from another process takes ten times as long.
        shuffle: As for :class:`Loader`. The order of a stream is its own: there it has no effect.
        **options: All other options of the loader.

    Returns:
        The loader.

    Raises:
        ConfigError: If ``dataset`` is neither, or is a mapping of datasets.
    """
    from ironloom.data.stream import IterableLoader

    if isinstance(dataset, Mapping):
        names = ", ".join(map(repr, dataset))
        raise ConfigError(f"a dataset was expected, found a mapping with {names}: choose one of them")
    if _is_stored(dataset):
        options.update(num_workers=0, prefetch_factor=None, persistent_workers=False)
    if isinstance(dataset, MapDataset) and not isinstance(dataset, IterableDataset):
        return Loader(dataset, shuffle=shuffle, **options)
    if isinstance(dataset, Iterable):
        return IterableLoader(dataset, **options)
    raise ConfigError(f"a dataset needs __len__ and __getitem__, or __iter__; {type(dataset).__name__} has neither of the two")


def _is_stored(dataset: Any) -> bool:
    """Whether samples come out of token stores."""
    if isinstance(dataset, Mixture):
        return all(_is_stored(part) for part in dataset.sources.values())
    return isinstance(dataset, TokenBlocks | TrainedRows | PackedRows)


def check_sizes(batch_size: int, rank: int, size: int, num_workers: int, prefetch_factor: int | None, persistent_workers: bool) -> None:
    """Refuse what no loader can do, all at once.

    Raises:
        ConfigError: With every problem.
    """
    problems = []
    if batch_size < 1:
        problems.append(Problem(f"expected at least 1, found {batch_size}", path="batch_size"))
    if not 0 <= rank < size:
        problems.append(Problem(f"expected a rank from 0 to {size - 1}, found {rank}", path="rank"))
    if num_workers < 0:
        problems.append(Problem(f"expected at least 0, found {num_workers}", path="num_workers"))
    if prefetch_factor is not None and prefetch_factor < 1:
        problems.append(Problem(f"expected at least 1, found {prefetch_factor}", path="prefetch_factor"))
    if num_workers == 0 and prefetch_factor is not None:
        problems.append(Problem("has no effect without workers", path="prefetch_factor", hint="set num_workers"))
    if num_workers == 0 and persistent_workers:
        problems.append(Problem("has no effect without workers", path="persistent_workers", hint="set num_workers"))
    if problems:
        raise ConfigError(problems)


def check_place(epoch: int, start: int) -> None:
    """Refuse a place before the beginning.

    Raises:
        ValueError: If a number is negative.
    """
    if epoch < 0 or start < 0:
        raise ValueError(f"epoch and start count from 0, not {epoch} and {start}")


def pin(batch: Any) -> Any:
    """``batch`` with its tensors in page-locked memory; containers are rebuilt, other values kept."""
    if isinstance(batch, torch.Tensor):
        return batch.pin_memory()
    if isinstance(batch, dict):
        return type(batch)((key, pin(value)) for key, value in batch.items())
    if isinstance(batch, MutableMapping):  # transformers' BatchEncoding, whose constructor is special
        for key, value in batch.items():
            batch[key] = pin(value)
        return batch
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(pin, batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map(pin, batch))
    return batch
