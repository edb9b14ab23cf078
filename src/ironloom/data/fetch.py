"""Reads one batch from a map-style dataset: samples, collation, and the randomness inside both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ironloom.data.draws import DrawDetector
from ironloom.data.plan import Request
from ironloom.device import random_key, seed_everything
from ironloom.errors import DataError

Collate = Callable[[Any], Any]


@runtime_checkable
class MapDataset(Protocol):
    """A dataset with a length and an index.

    It may also have ``__getitems__(indices: list[int]) -> list``, PyTorch's protocol for reading many at once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class BatchReader:
    """Reads batches so that what they contain is a function of seed, epoch and index.

    Code in ``dataset[i]`` finds Python's, NumPy's and PyTorch's global generators seeded by (seed, epoch, i), code in
    ``collate`` by (seed, epoch, position of the first sample). As long as nothing draws, this is not done but
    checked: one seed for the batch, one look at the generators afterwards. A batch that drew is read again with the
    right seeds, as is every batch after it. The result is the same bits either way.

    Generator objects that a dataset keeps for itself are out of reach: what they give depends on how often they
    were used before. So does a dataset that remembers what it drew, or that puts a global generator back after use.

    Args:
        dataset: The samples. ``__getitems__`` is used where it is defined, with one index at a time once something draws.
        collate: Makes a batch from a list of samples.
        seed: The seed of the data.
        seeder: Seeds the generators of this process.
    """

    def __init__(self, dataset: MapDataset, collate: Collate, seed: int, seeder: Callable[[int], None] = seed_everything):
        self._dataset = dataset
        # A protocol of PyTorch that a dataset may leave out.
        self._read_many: Callable[[list[int]], Sequence[Any]] | None = getattr(dataset, "__getitems__", None)
        self._collate = collate
        self._seed = seed
        self._seeder = seeder
        self._detector = DrawDetector(devices=seeder is seed_everything)
        self._draws = False
        self._diary: NDArray[np.int64] | None = None

    def keep_diary(self, diary: NDArray[np.int64]) -> None:
        """Write (epoch, index) of each sample into ``diary`` before it is read; the index is -1 for a whole batch."""
        self._diary = diary

    def read(self, request: Request) -> Any:
        """The batch of ``request``; None for an empty share.

        Raises:
            DataError: Naming the sample or the batch, from the error of the dataset or of ``collate``.
        """
        if not request.indices:
            return None
        if self._draws:
            return self._read_keyed(request)
        self._detector.arm()
        try:
            batch = self._collate(self._samples(request))
        except Exception:
            # Read once more, sample by sample: the error that is raised there knows its place.
            return self._read_keyed(request)
        if not self._detector.drawn():
            return batch
        self._draws = True
        return self._read_keyed(request)

    def _samples(self, request: Request) -> Sequence[Any]:
        if self._read_many is not None:
            self._note(request.epoch, -1)
            return self._read_many(request.indices)
        dataset = self._dataset
        if self._diary is None:
            return [dataset[index] for index in request.indices]
        samples = []
        for index in request.indices:
            self._note(request.epoch, index)
            samples.append(dataset[index])
        return samples

    def _read_keyed(self, request: Request) -> Any:
        samples = [self._sample(request.epoch, index) for index in request.indices]
        self._seeder(random_key("batch", self._seed, request.epoch, request.position))
        try:
            return self._collate(samples)
        except MemoryError:
            raise
        except Exception as error:
            shown = ", ".join(map(str, request.indices[:8])) + (", ..." if len(request.indices) > 8 else "")
            raise DataError(
                f"batch {request.number} of epoch {request.epoch} (samples {shown}) could not be collated: {described(error)}"
            ) from error

    def _sample(self, epoch: int, index: int) -> Any:
        self._note(epoch, index)
        self._seeder(random_key("sample", self._seed, epoch, index))
        try:
            return self._dataset[index] if self._read_many is None else self._read_many([index])[0]
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(f"sample {index} of epoch {epoch} could not be read: {described(error)}") from error

    def _note(self, epoch: int, index: int) -> None:
        if self._diary is not None:
            self._diary[:] = epoch, index


def described(error: BaseException) -> str:
    """An error in one line; the kind is left out where the message is made to be read alone."""
    text = str(error)
    if isinstance(error, DataError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
