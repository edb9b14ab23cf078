"""The loader of datasets that can only be read from the beginning."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ironloom.data.draws import seed_cpu
from ironloom.data.fetch import Collate, described
from ironloom.data.loader import check_place, check_sizes, pin
from ironloom.data.workers import Failure, received, worker_loader
from ironloom.device import random_key, seed_everything
from ironloom.errors import ConfigError, DataError


class IterableLoader:
    """Batches of an iterable dataset, in the dataset's own order.

    Starting in the middle reads and throws away what lies before: the cost grows with the position. Before each item
    is read, the global random generators are seeded by (seed, epoch, number of the item). A dataset with a method
    ``set_epoch`` (as those of Hugging Face) is told the epoch before it is read.

    Of each global batch, rank ``r`` of ``size`` takes the items ``r, r + size ...``; all ranks read all items. The
    last global batch of an epoch may be shorter; a rank for which nothing is left of it yields None, so that every
    rank yields the same number of batches.

    Args:
        dataset: Has ``__iter__``, which begins anew each time.
        batch_size: Samples per batch and rank.
        collate: Makes a batch from a list of samples.
        seed: Seed of the randomness.
        drop_last: Whether an incomplete last global batch is left out.
        rank: This rank among those that read different samples.
        size: Their number.
        num_workers: 0, or 1 to read ahead in another process. With more, the order would depend on their number.
        prefetch_factor: Batches that are read ahead; None for PyTorch's default (2).
        persistent_workers: Whether the worker lives on from one epoch to the next.
        pin_memory: Whether batches are moved to page-locked memory, if there is an accelerator.

    Raises:
        ConfigError: For an iterator in place of a dataset, for more than one worker, for sizes out of range.
    """

    num_samples = None
    sources = None

    def __init__(
        self,
        dataset: Iterable[Any],
        *,
        batch_size: int,
        collate: Collate,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory: bool = False,
    ):
        check_sizes(batch_size, rank, size, num_workers, prefetch_factor, persistent_workers)
        if isinstance(dataset, Iterator):
            raise ConfigError(
                f"{type(dataset).__name__} can be read only once, but every epoch and every restart begins anew: "
                "give an object whose __iter__ starts from the beginning"
            )
        if num_workers > 1:
            raise ConfigError(
                f"num_workers: {num_workers} workers would each read a part of an iterable dataset, in an order that "
                "depends on their number (use 0 or 1, or a dataset with __len__ and __getitem__)"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.global_batch_size = batch_size * size
        self._stream = _Stream(dataset, collate, seed, batch_size, drop_last, rank, size)
        pinned = pin_memory and torch.accelerator.is_available()
        self._pin: Callable[[Any], Any] | None = pin if pinned else None
        self._place = torch.zeros(2, dtype=torch.int64)
        self._worker: Any = None
        if num_workers:
            self._place.share_memory_()  # type: ignore[no-untyped-call]
            self._worker = worker_loader(
                _WorkerStream(self._stream, self._place),
                num_workers=1,
                prefetch_factor=prefetch_factor,
                persistent_workers=persistent_workers,
                pin_memory=pinned,
            )

    def __len__(self) -> int:
        raise TypeError("the number of batches of an iterable dataset is not known: set max_steps")

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(epoch=0)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start + 1`` ... of an epoch. All items before are read and dropped.

        Raises:
            DataError: While iterating, if an item cannot be read, a batch cannot be collated, or the worker dies.
        """
        check_place(epoch, start)
        return self._iterate_here(epoch, start) if self._worker is None else self._iterate_worker(epoch, start)

    def _iterate_here(self, epoch: int, start: int) -> Iterator[Any]:
        for batch in self._stream.batches(epoch, start, seed_everything):
            yield batch if self._pin is None else self._pin(batch)

    def _iterate_worker(self, epoch: int, start: int) -> Iterator[Any]:
        self._place[0], self._place[1] = epoch, start
        yield from received(self._worker)


class _Stream:
    """Reads a dataset from the beginning and cuts it into batches."""

    def __init__(
        self,
        dataset: Iterable[Any],
        collate: Collate,
        seed: int,
        batch_size: int,
        drop_last: bool,
        rank: int,
        size: int,
    ):
        self._dataset = dataset
        self._collate = collate
        self._seed = seed
        self._global_size = batch_size * size
        self._drop_last = drop_last
        self._rank = rank
        self._size = size

    def batches(self, epoch: int, start: int, seeder: Callable[[int], None]) -> Iterator[Any]:
        """The batches of this rank from ``start`` on; None for an empty share."""
        items = self._items(epoch, seeder)
        number = 0
        while chunk := list(itertools.islice(items, self._global_size)):
            if len(chunk) < self._global_size and self._drop_last:
                return
            if number >= start:
                yield self._collated(chunk[self._rank :: self._size], epoch, number, seeder)
            number += 1

    def _items(self, epoch: int, seeder: Callable[[int], None]) -> Iterator[Any]:
        # A protocol of Hugging Face's datasets that others may leave out.
        set_epoch: Callable[[int], None] | None = getattr(self._dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        seeder(random_key("stream", self._seed, epoch))
        number = 0
        iterator = None
        while True:
            try:
                if iterator is None:
                    iterator = iter(self._dataset)
                seeder(random_key("sample", self._seed, epoch, number))
                item = next(iterator)
            except StopIteration:
                return
            except MemoryError:
                raise
            except Exception as error:
                raise DataError(f"item {number} of epoch {epoch} could not be read: {described(error)}") from error
            yield item
            number += 1

    def _collated(self, share: list[Any], epoch: int, number: int, seeder: Callable[[int], None]) -> Any:
        if not share:
            return None
        position = number * self._global_size
        seeder(random_key("batch", self._seed, epoch, position + self._rank))
        try:
            return self._collate(share)
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"batch {number} of epoch {epoch} (items from {position} on) could not be collated: {described(error)}"
            ) from error


class _WorkerStream(IterableDataset[Any]):
    """The stream as the worker sees it: items are batches, the place to start at lies in shared memory."""

    def __init__(self, stream: _Stream, place: torch.Tensor):
        self._stream = stream
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        epoch, start = self._place.tolist()
        try:
            yield from self._stream.batches(epoch, start, seed_cpu)
        except DataError as error:
            yield Failure.of(error)
