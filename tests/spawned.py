"""A function in N processes that know each other, as a launcher would have started them."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed

#: Seconds that the others get to tell their own story once one process has failed.
GRACE = 1.0


def run(function: Callable[..., Any], nproc: int, *args: Any, timeout: float = 60, env: dict[str, str] | None = None) -> list[Any]:
    """Call ``function(*args)`` in ``nproc`` processes with ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` ... set; gloo, CPU.

    The processes are forked, so a lambda or an inner function will do, and nothing is imported again. The store that
    they meet at is on a port that the system chose: runs at the same time do not disturb each other.

    Args:
        function: What each process calls; it must not need a process group of the caller's.
        nproc: Number of processes.
        *args: Its arguments.
        timeout: Seconds for all of it.
        env: Further environment variables.

    Returns:
        What the calls returned, by rank.

    Raises:
        AssertionError: If a process fails, dies or is not done in time, with the trace of every process. None is left running.
    """
    context = multiprocessing.get_context("fork")
    with _store(context) as port, tempfile.TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        processes = []
        for rank in range(nproc):
            variables = {**_place(rank, nproc, port), **(env or {})}
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(function, args, send, variables, str(_stacks(folder, rank))))
            process.start()
            send.close()
            pipes.append(receive)
            processes.append(process)
        try:
            return _results(processes, pipes, folder, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


@contextlib.contextmanager
def _store(context: Any) -> Iterator[int]:
    """The port of a store in a process of its own: this one must stay without threads, to be forked."""
    receive, send = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(send,))
    server.start()
    send.close()
    try:
        yield receive.recv()
    finally:
        server.kill()
        server.join()


def _serve(pipe: Connection) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    pipe.send(store.port)
    signal.pause()


def _place(rank: int, nproc: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", **{name: str(value) for name, value in names.items()}}


def _stacks(folder: str, rank: int) -> Path:
    return Path(folder, f"stack-{rank}")


def _child(function: Callable[..., Any], args: tuple[Any, ...], pipe: Connection, variables: dict[str, str], stacks: str) -> None:
    # Garbage of the parent is not for this process to collect: a store there would wait for threads that are not here.
    gc.freeze()
    os.environ.update(variables)
    torch.set_num_threads(1)
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file=file)
        try:
            message = (True, function(*args))
        except BaseException:
            message = (False, traceback.format_exc())
        try:
            # Not pipe.send(): it would leave tensors in this process, which ends, for the other one to fetch.
            data = pickle.dumps(message)
        except Exception:
            data = pickle.dumps((False, traceback.format_exc()))
        pipe.send_bytes(data)
        pipe.close()
        # No interpreter shutdown: threads of the store and of gloo would be waited for, in any order.
        os._exit(0 if message[0] else 1)


def _results(processes: list[Any], pipes: list[Connection], folder: str, deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(pipes):
        left = deadline - time.monotonic()
        open_pipes = [pipe for rank, pipe in enumerate(pipes) if rank not in results and rank not in failures]
        ready = wait(open_pipes, max(0.0, min(left, GRACE)))
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                succeeded, value = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                processes[rank].join()
                succeeded, value = False, f"died without a word, exit code {processes[rank].exitcode}\n"
            (results if succeeded else failures)[rank] = value
        if not ready and (failures or left <= 0):
            break
    if failures or len(results) < len(pipes):
        raise AssertionError(_story(processes, results, failures, folder))
    return [results[rank] for rank in range(len(pipes))]


def _story(processes: list[Any], results: dict[int, Any], failures: dict[int, str], folder: str) -> str:
    """What every process was doing when the run failed."""
    parts = []
    for rank, process in enumerate(processes):
        if rank in failures:
            parts.append(f"rank {rank} failed:\n{failures[rank]}")
        elif rank in results:
            parts.append(f"rank {rank} is done\n")
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.2)
            parts.append(f"rank {rank} is not done; it is at\n{_stacks(folder, rank).read_text()}")
    return "\n".join(parts)
