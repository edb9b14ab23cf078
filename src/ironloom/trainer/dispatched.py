"""Batches that the first process reads for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ironloom.errors import DataError


class DispatchedLoader:
    """The loaders of all processes, read by the first one: what each would read is sent to it.

    So the samples of a step are the same as without it; only who reads them differs. Every process iterates over as many
    batches, at the same time: one that reads and sends is a collective.

    Args:
        loaders: In the first process those of all, by their ranks; elsewhere that of this process alone, for its figures.
        is_first: Whether this is the process that reads.
        size: Number of processes.
    """

    def __init__(self, loaders: Sequence[Any], is_first: bool, size: int):
        self._loaders, self._is_first, self._size = loaders, is_first, size
        self.batch_size: int = loaders[0].batch_size
        self.global_batch_size: int = loaders[0].global_batch_size
        self.num_samples: int | None = loaders[0].num_samples
        self.sources = loaders[0].sources

    def __len__(self) -> int:
        """Batches per epoch, the same in every process."""
        return len(self._loaders[0])

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(epoch=0)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start + 1`` ... of an epoch.

        Raises:
            DataError: In every process, if the first one cannot read.
        """
        if not self._is_first:
            yield from self._received()
            return
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(contextlib.closing(loader.iterate(epoch, start))) for loader in self._loaders]
            while True:
                try:
                    batches = [next(reader, _END) for reader in readers]
                except Exception as error:
                    self._exchange([_Failure(f"{type(error).__name__}: {error}")] * self._size)
                    raise
                batch = self._exchange(batches)
                if isinstance(batch, _End):
                    return
                yield batch

    def _received(self) -> Iterator[Any]:
        while True:
            batch = self._exchange(None)
            if isinstance(batch, _Failure):
                raise DataError(f"the first process, which reads the data for all, failed: {batch.text}")
            if isinstance(batch, _End):
                return
            yield batch

    def _exchange(self, batches: list[Any] | None) -> Any:
        """Send each process its own; what is for this one."""
        import torch.distributed as dist

        own: list[Any] = [None]
        dist.scatter_object_list(own, batches, src=0)
        return own[0]


class _End:
    """Sent after the last batch."""


_END = _End()


class _Failure:
    """Sent instead of batches that could not be read."""

    def __init__(self, text: str):
        self.text = text
