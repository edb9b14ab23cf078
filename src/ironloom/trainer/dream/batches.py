"""Batches of any shape, from whatever a hook gives: a dataset, our loader, or a loader of PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ironloom.data.loader import check_place
from ironloom.device import random_key, seed_everything
from ironloom.errors import ConfigError, DataError


class Packed(dict[str, Any]):
    """A batch that is no flat mapping: its tensors by their places, for those who count, and itself for those who compute."""

    def __init__(self, original: Any):
        super().__init__(_tensors(original, ""))
        self.original = original


def packed(batch: Any) -> Any:
    """A batch as a mapping; None, nothing of a last batch, stays."""
    if batch is None or (isinstance(batch, Mapping) and any(isinstance(value, torch.Tensor) and value.ndim for value in batch.values())):
        return batch
    return Packed(batch)


def unpacked(batch: Any) -> Any:
    """What :func:`packed` was given."""
    return batch.original if isinstance(batch, Packed) else batch


def moved(value: Any, device: torch.device) -> Any:
    """A batch of any shape with its tensors on a device."""
    if device.type == "cpu":
        return value
    return _mapped(value, lambda tensor: tensor.to(device, non_blocking=True))


def _tensors(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path or "batch", value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _tensors(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, part in enumerate(value):
            yield from _tensors(part, f"{path}.{index}".lstrip("."))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Containers are rebuilt, what is no tensor is kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(part, change) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value


class Batches:
    """A loader of ours whose batches are packed, and of which a validation may read the first ones only.

    Args:
        loader: Has ``iterate``, ``global_batch_size`` and ``num_samples``.
        limit: Batches of an epoch at the most.
    """

    def __init__(self, loader: Any, limit: int | None = None):
        self._loader, self._limit = loader, limit
        self.global_batch_size: int = loader.global_batch_size
        self.num_samples: int | None = loader.num_samples
        # A loader of the user's own counts none.
        self.sources = getattr(loader, "sources", None)

    def __len__(self) -> int:
        count = len(self._loader)
        return count if self._limit is None else min(count, self._limit)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number ``start`` on."""
        for batch in itertools.islice(self._loader.iterate(epoch, start), self._limit):
            yield packed(batch)


class Counted:
    """A ``torch.utils.data.DataLoader``, its batches by number.

    Its batches are those of a step in all processes: each takes its rows, unless a ``DistributedSampler`` parts the
    samples before. The generators are seeded by (seed, epoch, number of the batch), so that order and samples are the
    same after a restart; to start in the middle it is read from the beginning and what lies before is dropped.

    Args:
        loader: Iterated anew for every epoch.
        seed: Seed of what it draws.
        rank: This process among those that read different samples.
        size: Their number.

    Raises:
        ConfigError: For a sampler of another number of processes.
    """

    sources = None

    def __init__(self, loader: Any, seed: int, rank: int, size: int):
        self._loader, self._seed, self._rank, self._size = loader, seed, rank, size
        sampler = getattr(loader, "sampler", None)
        replicas = getattr(sampler, "num_replicas", None)
        if replicas is not None and (replicas != size or getattr(sampler, "rank", rank) != rank):
            raise ConfigError(
                f"the sampler is of process {getattr(sampler, 'rank', '?')} of {replicas}, but this one is {rank} of the {size} that read "
                "different samples: make it with team.place.data_rank and team.place.data_size"
            )
        self._is_parted = replicas is not None
        batch_size = getattr(loader, "batch_size", None)
        # Without a batch size the unit of the position is a batch.
        self.global_batch_size: int = (batch_size or 1) * (size if self._is_parted else 1)
        self.num_samples: int | None = self._count_samples(batch_size)

    def _count_samples(self, batch_size: int | None) -> int | None:
        try:
            batches = len(self._loader)
            samples = len(self._loader.sampler) * (self._size if self._is_parted else 1) if batch_size else batches
        except (TypeError, AttributeError):
            return None
        return min(samples, batches * self.global_batch_size)

    def __len__(self) -> int:
        return len(self._loader)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number ``start`` on; those before are read too."""
        check_place(epoch, start)
        for place in (self._loader, getattr(self._loader, "sampler", None), getattr(self._loader, "batch_sampler", None)):
            set_epoch = getattr(place, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        generator = getattr(self._loader, "generator", None)
        if generator is not None:
            generator.manual_seed(random_key("order", self._seed, epoch))
        batches = None
        for number in itertools.count():
            seed_everything(random_key("batch", self._seed, epoch, number))
            batches = iter(self._loader) if batches is None else batches
            try:
                batch = next(batches)
            except StopIteration:
                return
            if number >= start:
                yield packed(batch if self._is_parted or self._size == 1 else self._share(batch))

    def _share(self, batch: Any) -> Any:
        """The rows of this process."""
        tensors = dict(_tensors(batch, ""))
        sizes = {len(tensor) for tensor in tensors.values() if tensor.ndim}
        if len(sizes) != 1:
            raise DataError(
                f"a batch whose tensors have {sorted(sizes) or 'no'} rows cannot be shared by {self._size} processes: "
                "give the DataLoader a DistributedSampler, or return a dataset"
            )
        (count,) = sizes
        low, high = count * self._rank // self._size, count * (self._rank + 1) // self._size
        return _mapped(batch, lambda tensor: tensor[low:high] if tensor.ndim else tensor) if high > low else None


def is_loader(value: Any) -> bool:
    """Whether this gives batches rather than samples: a loader of ours, or of PyTorch."""
    return hasattr(value, "iterate") or isinstance(value, torch.utils.data.DataLoader)
