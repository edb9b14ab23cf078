"""Our launcher: torchrun's agent, which starts the ranks of this machine and starts them anew, with an eye on them all."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from ironloom.device import num_cores
from ironloom.errors import RankError
from ironloom.parallel.launch_logs import LOGS
from ironloom.parallel.watch_diagnose import Verdict
from ironloom.parallel.watch_memory import memory_file, read
from ironloom.parallel.watch_observe import Observer
from ironloom.parallel.watch_store import open_store

#: Environment variable by which the launcher tells a worker that it is watched, and under which name.
TOKEN = "IRONLOOM_WATCH"
#: Environment variable with the time of the launch: what is newer belongs to this run.
LAUNCHED = "IRONLOOM_LAUNCHED"
# Seconds that ranks get to end by themselves once the failure has a name, or one of them has ended in order.
_GRACE = 5.0
_ORDERLY_GRACE = 600.0
_ORDERLY = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# Mistakes of the user: the next attempt would make them again.
_LASTING = (2, 3)


class Outputs(LogsSpecs):
    """Tells the workers where their logs are; each one writes there itself, so that a start that fails is seen on the terminal."""

    def __init__(self, folder: Path, launched: float):
        super().__init__()
        self.folder, self.launched, self.token = folder, launched, ""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Complete the environments; no stream is redirected."""
        for environment in envs.values():
            # PyTorch's recorder of collectives tells who called which, when ranks disagree.
            recorder = {"TORCH_FR_BUFFER_SIZE": os.environ.get("TORCH_FR_BUFFER_SIZE", "256")}
            environment.update({LOGS: str(self.folder), TOKEN: self.token, LAUNCHED: str(self.launched), **recorder})
            environment["TORCHELASTIC_ERROR_FILE"] = ""
            if len(envs) > 1:  # threads of several processes on one core wait for each other, ten times as long as they compute
                share = max(1, num_cores() // len(envs))
                environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(share))
        return LogsDest(dict.fromkeys(envs, ""), dict.fromkeys(envs, ""), {}, {}, dict.fromkeys(envs, os.devnull))

    @property
    def root_log_dir(self) -> str:
        """The folder of the logs."""
        return str(self.folder)


class Agent(LocalElasticAgent):
    """torchrun's agent; it names the cause before it stops the other ranks, and does not repeat what cannot succeed.

    Attributes:
        verdict: On the last failure; None where there was none or it could not be told.
        codes: Exit codes of the ranks of this machine that have ended, by rank.
    """

    def __init__(self, spec: Any, outputs: Outputs, shutdown_timeout: int):
        super().__init__(spec, outputs, shutdown_timeout=shutdown_timeout)
        self._outputs = outputs
        self._observer: Observer | None = None
        self._watched: Any = None
        self._failed_at: float | None = None
        self._server: TCPStore | None = None
        self._starts = 0
        self.verdict: Verdict | None = None
        self.codes: dict[int, int] = {}

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        store = worker_group.store
        assert store is not None, "workers start after a rendezvous"
        if worker_group.group_rank == 0:
            store.set("ironloom/token", uuid.uuid4().hex)
        self._outputs.token = store.get("ironloom/token").decode()
        self._meet(worker_group, store)
        self._watched = open_store(str(worker_group.master_addr), int(worker_group.master_port or 0), self._outputs.token)
        world = worker_group.workers[0].world_size
        self._observer = Observer(self._watched, world, self._outputs.token) if worker_group.group_rank == 0 else None
        self._failed_at, self.verdict, self.codes = None, None, {}
        in_main = threading.current_thread() is threading.main_thread()
        hangup = signal.getsignal(signal.SIGHUP)
        started: dict[int, Any] = super()._start_workers(worker_group)
        if in_main:
            # torchrun would end the ranks at once when a terminal is closed, under nohup too; left alone the launcher
            # goes on, or is gone, which the ranks take for a wish to stop in order.
            signal.signal(signal.SIGHUP, hangup)
        return started

    def _meet(self, group: WorkerGroup, store: Any) -> None:
        """Give every start a store of its own: in the one of an earlier start the ranks would find addresses of processes that are gone."""
        is_fixed, self._starts = group.spec.master_port is not None, self._starts + 1
        if is_fixed and self._starts == 1:
            return
        if group.group_rank == 0:
            host = group.spec.master_addr or group.spec.local_addr or socket.getfqdn()
            self._server = TCPStore(host, 0, None, True, wait_for_workers=False)
            store.set("ironloom/place", f"{host} {self._server.port}")
        group.master_addr, port = store.get("ironloom/place").decode().split()
        group.master_port = int(port)  # type: ignore[assignment]

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        for local, handler in self._handlers().items():
            code = _exit_code(handler.proc)
            rank = worker_group.workers[local].global_rank
            if code is not None and rank not in self.codes:
                self.codes[rank] = code
                self._watched.set(f"page/{rank}", json.dumps(read(memory_file(self._outputs.token, rank))))
                self._watched.set(f"exit/{rank}", json.dumps(code))
        self._look()
        if self.verdict is None and not any(self.codes.values()):
            if len(self.codes) < len(self._handlers()):
                # torchrun's own look would stop the others at the first failure, before its cause is known.
                return RunResult(state=WorkerState.HEALTHY)
            result: RunResult = super()._monitor_workers(worker_group)
            return result
        self._failed_at = self._failed_at or time.monotonic()
        if not self._may_stop(time.monotonic() - self._failed_at):
            return RunResult(state=WorkerState.HEALTHY)
        if (self.verdict is not None and self.verdict.exit_code in _LASTING) or any(code in _ORDERLY for code in self.codes.values()):
            self._remaining_restarts = 0
        if self.verdict is not None and self._remaining_restarts > 0:
            print(
                self.verdict.text(),
                f"starting the ranks anew, attempt {self._starts + 1}",
                sep="\n",
                file=sys.stderr,
                flush=True,
            )
        self._kill()
        for worker in worker_group.workers:
            memory_file(self._outputs.token, worker.global_rank).unlink(missing_ok=True)
        return RunResult(state=WorkerState.FAILED)

    def _look(self) -> None:
        """Ask for the verdict: node 0 makes it, the others read it."""
        if self.verdict is not None:
            return
        if self._observer is not None:
            self.verdict = self._observer.look(self.codes)
        elif self._watched.check(["verdict"]):
            found = json.loads(self._watched.get("verdict"))
            self.verdict = Verdict(tuple(found["ranks"]), tuple(found["lines"]), found["code"])

    def _may_stop(self, seconds: float) -> bool:
        """Whether the ranks that still run have had their time."""
        if all(_exit_code(handler.proc) is not None for handler in self._handlers().values()):
            return self.verdict is not None or seconds > _GRACE or any(code in _ORDERLY for code in self.codes.values())
        orderly = any(code in _ORDERLY for code in self.codes.values())
        return seconds > (_ORDERLY_GRACE if orderly else _GRACE if self.verdict is None else 1.0)

    def _kill(self) -> None:
        """End the ranks that are left: they wait for one that is no more, and would not hear a milder signal."""
        for handler in self._handlers().values():
            if _exit_code(handler.proc) is None:
                os.killpg(handler.proc.pid, signal.SIGKILL)
                handler.proc.wait()

    def _handlers(self) -> Mapping[int, Any]:
        handlers: Mapping[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
        return handlers

    def exit_code(self) -> int:
        """What the launcher ends with after a failure: the code of an orderly stop, or that of the failure's kind."""
        orderly = [code for code in self.codes.values() if code in _ORDERLY]
        if orderly and self.verdict is None:
            return orderly[0]
        return self.verdict.exit_code if self.verdict is not None else RankError.exit_code


def _exit_code(process: Any) -> int | None:
    """Exit code of a rank, None while it runs; what a failed one has started goes with it.

    Before its end is taken note of its number cannot be that of another group of processes.
    """
    if process.returncode is None:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None and ended.si_status not in (0, *_ORDERLY):
            os.killpg(process.pid, signal.SIGKILL)
    code: int | None = process.poll()
    return code
