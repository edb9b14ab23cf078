"""Batches of records through an encoder, in several processes, in order.

The processes are forks: an encoder needs no second start-up, and may be any object. A fork has no threads but its own, so
the tokenizer libraries are told not to use any there. Small corpora never fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from ironloom.data.preparation.records import peek, size_of
from ironloom.data.store import Encoder, Rows
from ironloom.device import num_cores
from ironloom.environment import environment
from ironloom.errors import DataError, ResourceError, can_travel

_SMALL = 8 << 20  # characters; a corpus of fewer is done in this process
_AHEAD = 2  # batches that a process has been given and not returned

Batches = Iterator[tuple[list[Any], Any]]


def encoded(batches: Batches, encoder: Encoder, num_workers: int | None) -> Iterator[tuple[Rows, Any]]:
    """What an encoder makes of batches, in their order, each with its mark.

    Args:
        batches: Lists of records with marks.
        encoder: Makes documents of them.
        num_workers: Processes; None: as many as there are cores.

    Raises:
        DataError: What the encoder raises.
        ResourceError: If a process is killed.
    """
    wanted = num_cores() if num_workers is None else num_workers
    first, batches = peek(batches, lambda batch: size_of(batch[0]), _SMALL)
    if wanted > 1 and sum(size_of(batch) for batch, _ in first) >= _SMALL:
        with _Pool(encoder, wanted) as pool:
            yield from pool.map(batches)
    else:
        for batch, mark in batches:
            yield encoder(batch), mark


class _Pool:
    """Forked processes that encode."""

    def __init__(self, encoder: Encoder, num_workers: int):
        self._encoder = encoder
        self._num_workers = num_workers
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []

    def __enter__(self) -> _Pool:
        context = multiprocessing.get_context("fork")
        for _ in range(self._num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, [*self._pipes, ours], self._encoder), daemon=True)
            with warnings.catch_warnings(), environment({"TOKENIZERS_PARALLELISM": "false"}):
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads: see above
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()

    def map(self, batches: Batches) -> Iterator[tuple[Rows, Any]]:
        """What comes back, in the order in which it was sent."""
        given: list[deque[int]] = [deque() for _ in self._pipes]  # for each process the numbers of its batches
        marks: dict[int, Any] = {}
        done: dict[int, Rows] = {}
        sent = returned = 0
        more = True
        while more or returned < sent:
            # What is done is bounded too: a slow batch must not let the others run away from it.
            while more and sent - returned < 2 * _AHEAD * len(given):
                worker = min(range(len(given)), key=lambda number: len(given[number]))
                if len(given[worker]) >= _AHEAD:
                    break
                batch = next(batches, None)
                if batch is None:
                    more = False
                    break
                self._send(worker, batch[0])
                given[worker].append(sent)
                marks[sent] = batch[1]
                sent += 1
            if returned < sent and returned not in done:
                for pipe in multiprocessing.connection.wait([pipe for pipe, numbers in zip(self._pipes, given, strict=True) if numbers]):
                    worker = self._pipes.index(pipe)  # type: ignore[arg-type]
                    done[given[worker].popleft()] = self._receive(worker)
            while returned in done:
                yield done.pop(returned), marks.pop(returned)
                returned += 1

    def _send(self, worker: int, batch: list[Any]) -> None:
        try:
            self._pipes[worker].send_bytes(pickle.dumps(batch, protocol=5))
        except OSError as error:
            raise self._died(worker) from error

    def _receive(self, worker: int) -> Rows:
        try:
            result = self._pipes[worker].recv()
        except (EOFError, OSError) as error:
            raise self._died(worker) from error
        if isinstance(result, Rows):
            return result
        assert isinstance(result, Exception)
        raise result

    def _died(self, worker: int) -> ResourceError:
        process = self._processes[worker]
        process.join(1)
        code = process.exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return ResourceError(
            f"a process that tokenizes ended {how}; if the system ran out of memory, set num_workers of the data file lower "
            "(the next run goes on from what is prepared)"
        )


def _work(pipe: Connection, others: list[Connection], encoder: Encoder) -> None:
    """Encode what comes through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # held here they would keep other processes waiting when the first one is killed
        other.close()
    # Reading on while a result is being sent: else both ends could wait for the other to read.
    batches: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                batches.put(pipe.recv_bytes())
        batches.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (content := batches.get()) is not None:
        try:
            result: Any = encoder(pickle.loads(content))
        except Exception as error:
            result = _portable(error)
        try:
            pipe.send(result)
        except OSError:  # the first process is gone
            break
    os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error, or one with its text, where it cannot be pickled."""
    if can_travel(error):
        return error
    return (DataError if isinstance(error, DataError) else RuntimeError)(f"{type(error).__name__}: {error}")
