"""Batches read by worker processes, on top of PyTorch's DataLoader.

A worker receives whole requests and returns whole batches, so the epoch travels with each of them and any batch can
be the first. A failure travels back as a value and is raised where the batch is asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ironloom.data.draws import seed_cpu
from ironloom.data.fetch import BatchReader, Collate, MapDataset, described
from ironloom.data.plan import BatchPlan, Request
from ironloom.environment import environment
from ironloom.errors import DataError, can_travel

_GRACE = 30  # seconds that a worker goes on after SIGTERM
_END = object()
_DYING = 1  # seconds between the end of a worker's messages and that of its process


@dataclass(frozen=True)
class Failure:
    """What a worker returns in place of a batch.

    Attributes:
        message: The text of the error that will be raised.
        cause: The original error, with the worker's stack trace as a note; None where it cannot be pickled.
    """

    message: str
    cause: Exception | None

    @classmethod
    def of(cls, error: DataError) -> Failure:
        """Pack an error of the worker together with the one it came from."""
        cause = error.__cause__
        if not isinstance(cause, Exception):
            return cls(str(error), None)
        cause.add_note("In the loader's worker:\n" + "".join(traceback.format_exception(cause)))
        if not can_travel(cause):
            cause = RuntimeError("".join(traceback.format_exception(cause)))
        return cls(str(error), cause)

    def raise_again(self) -> None:
        """Raise it in this process."""
        raise DataError(self.message) from self.cause


class WorkerPool:
    """The worker processes of one map-style loader.

    Args:
        dataset: The samples.
        collate: Makes a batch from a list of samples, in the worker.
        seed: The seed of the data.
        plan: Says which batches there are.
        num_workers: Number of processes, at least 1.
        prefetch_factor: Batches that each worker reads ahead; None for PyTorch's default.
        persistent_workers: Whether the processes live on from one :meth:`iterate` to the next.
        pin_memory: Whether batches are moved to page-locked memory.
    """

    def __init__(
        self,
        dataset: MapDataset,
        collate: Collate,
        seed: int,
        plan: BatchPlan,
        *,
        num_workers: int,
        prefetch_factor: int | None,
        persistent_workers: bool,
        pin_memory: bool,
    ):
        self._requests = _Requests(plan)
        self._calls = 0
        # For each worker: its process, and the epoch and index that it reads. Shared, so that it survives the worker.
        self._diary = torch.full((num_workers, 3), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._loader = worker_loader(
            _Batches(dataset, collate, seed, self._diary),
            sampler=self._requests,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory=pin_memory,
        )

    def iterate(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from ``start`` on, in order.

        Raises:
            RuntimeError: If persistent workers were taken by a newer call while this one was not finished.
        """
        self._requests.epoch, self._requests.start = epoch, start
        self._calls += 1
        call = self._calls
        for batch in received(self._loader, self._where):
            yield batch
            if self._loader.persistent_workers and call != self._calls:
                raise RuntimeError("persistent workers serve one iteration at a time, and a newer one has begun")

    def _where(self) -> str:
        """What the worker that died was reading."""
        children = {child.sentinel: child for child in multiprocessing.active_children()}
        for sentinel in multiprocessing.connection.wait(list(children), timeout=_DYING):
            children[sentinel].join(_DYING)  # type: ignore[index]
        alive = {child.pid for child in multiprocessing.active_children()}
        for pid, epoch, index in self._diary.tolist():
            if pid >= 0 and pid not in alive:
                return f" while reading sample {index} of epoch {epoch}" if index >= 0 else f" in epoch {epoch}"
        return ""


def worker_loader(dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
    """A DataLoader whose items are batches already and which leaves the global generators alone.

    Its persistent workers, if it has any, are told to leave when the loader or the process ends. Without that
    they would take the SIGTERM of the process's end for one that is meant for everybody, and stay for a while.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
        **options,
    )
    if loader.persistent_workers:
        atexit.register(_dismiss, weakref.ref(loader))
    return loader


def _dismiss(reference: weakref.ref[DataLoader[Any]]) -> None:
    """End the persistent workers of a loader, if it is still there and has started any."""
    loader = reference()
    if loader is not None and loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


def received(loader: DataLoader[Any], where: Callable[[], str] = str) -> Iterator[Any]:
    """The batches that workers send.

    Args:
        loader: From :func:`worker_loader`.
        where: Called when a worker died; what it returns is put into the message.

    Raises:
        DataError: What a worker reported, or that a worker died.
    """
    with _forking():
        iterator = iter(loader)
    try:
        while True:
            batch = next(iterator, _END)
            if batch is _END:
                return
            if isinstance(batch, Failure):
                batch.raise_again()
            yield batch
    except (RuntimeError, OSError, EOFError) as error:  # of PyTorch: those of the dataset arrive as a Failure
        error.__cause__ = error.__context__ = None  # whose frames would keep the workers alive, see below
        raise DataError(
            f"the loader's workers failed{where()}: {described(error)} "
            "(killed for memory? use fewer workers, or none to see the error itself)"
        ) from error.with_traceback(None)
    finally:
        # The last reference, so that the workers end here. Collected later as part of a cycle (as the local of a frame
        # in an exception's traceback is), their queues would be closed before they are told to end.
        del iterator


class _Requests(Iterable[Request]):
    """The sampler of the DataLoader: where the next iteration starts is set before it begins."""

    def __init__(self, plan: BatchPlan):
        self._plan = plan
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[Request]:
        return self._plan.requests(self.epoch, self.start)


class _Batches(Dataset[Any]):
    """The dataset as a worker sees it: the index is a request, the item a batch."""

    def __init__(self, dataset: MapDataset, collate: Collate, seed: int, diary: torch.Tensor):
        self._dataset = dataset
        self._collate = collate
        self._seed = seed
        self._diary = diary
        self._reader: BatchReader | None = None

    def __getitem__(self, request: Request) -> Any:
        try:
            return self._worker_reader().read(request)
        except DataError as error:
            return Failure.of(error)

    def _worker_reader(self) -> BatchReader:
        if self._reader is None:
            self._reader = BatchReader(self._dataset, self._collate, self._seed, seed_cpu)
            info = get_worker_info()
            assert info is not None
            row = self._diary[info.id].numpy()
            row[0] = os.getpid()
            self._reader.keep_diary(row[1:])
        return self._reader


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Keep a worker alive when the terminal or the scheduler signals the whole group.

    The main process decides when to stop: it finishes its step, for which it may still need batches.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)


def _leave_later(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_GRACE)


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Around the start of workers.

    The library ``tokenizers`` warns in each forked process unless told beforehand that it shall not use threads there.
    PyTorch's handler of SIGCHLD raises the death of a worker wherever the program happens to be, in the midst of a
    training step; without it the death is noticed when the next batch is asked for.
    """
    name = "TOKENIZERS_PARALLELISM"
    handler = _child_handler()
    try:
        with environment({name: os.environ.get(name, "false")}):
            yield
    finally:
        if handler is not _child_handler():
            signal.signal(signal.SIGCHLD, handler)


def _child_handler() -> Any:
    return signal.getsignal(signal.SIGCHLD)
