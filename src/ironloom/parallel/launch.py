"""Starting the processes of a run on this machine, or finding out that they are started already."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import ConfigError, RankError
from ironloom.parallel.launch_logs import tail
from ironloom.parallel.launch_place import check_port

# Seconds to save and leave after Ctrl-C; then the ranks are killed.
_ORDERLY = 600
#: Port where machines meet unless it is given.
PORT = 29400


@dataclass(frozen=True)
class Launch:
    """How many processes, and where.

    Attributes:
        nproc: Processes on this machine.
        min_nodes: Machines that must be there.
        max_nodes: Machines that may take part.
        node_rank: Number of this machine; None where the machines find their numbers themselves.
        rendezvous: ``HOST[:PORT]`` where they meet; None for one machine.
        max_restarts: How often the run may fail and go on from its last checkpoint.
    """

    nproc: int
    min_nodes: int = 1
    max_nodes: int = 1
    node_rank: int | None = None
    rendezvous: str | None = None
    max_restarts: int = 0

    @property
    def world(self) -> int:
        """Number of processes when every machine is there."""
        return self.nproc * self.max_nodes


def plan(nproc: int, nnodes: str = "1", node_rank: int | None = None, rendezvous: str | None = None, max_restarts: int = 0) -> Launch:
    """The launch that options describe.

    Args:
        nproc: Processes on each machine.
        nnodes: Number of machines, or ``MIN:MAX``.
        node_rank: Number of this machine.
        rendezvous: Where the machines meet.
        max_restarts: How often the run may fail and go on.

    Raises:
        ConfigError: For options that do not fit each other.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", nnodes)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(f"--nnodes: expected a number of machines or MIN:MAX, found {nnodes!r}")
    if most > 1 and rendezvous is None:
        raise ConfigError("--nnodes: several machines need a place to meet; give --rdzv HOST:PORT, the same on each of them")
    if most == 1 and (rendezvous is not None or node_rank):
        raise ConfigError("--rdzv and --node-rank have no effect with one machine; give --nnodes, or leave them out")
    if node_rank is not None and not 0 <= node_rank < most:
        raise ConfigError(f"--node-rank: expected a number from 0 to {most - 1}, found {node_rank}")
    if node_rank is not None and least != most:
        raise ConfigError("--node-rank: with --nnodes MIN:MAX the machines find their numbers themselves; leave it out")
    if rendezvous is not None and not re.fullmatch(r"[^\s:]+(:\d+)?", rendezvous):
        raise ConfigError(f"--rdzv: expected HOST or HOST:PORT, found {rendezvous!r}")
    return Launch(nproc, least, most, node_rank, rendezvous, max_restarts)


def is_placed(variables: Mapping[str, str], nproc: int | None) -> bool:
    """Whether another launcher has started this process as one of several, so that nothing is to be started.

    Raises:
        ConfigError: If it has, with another number of processes than ``nproc`` asks for.
    """
    if "RANK" in variables and "WORLD_SIZE" in variables:
        here, who = variables.get("LOCAL_WORLD_SIZE"), "torchrun"
    elif "SLURM_PROCID" in variables and int(variables.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        # One task per machine that is asked for several processes is to start them.
        here, who = variables.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0], "srun"
        if nproc is not None and here == "1":
            return False
    else:
        return False
    if nproc is not None and here is not None and str(nproc) != here:
        raise ConfigError(f"--nproc {nproc}: {who} has started {here} processes on this machine; leave --nproc out")
    return True


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Put back what signals did before: the agent takes them over, for good."""
    in_main = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()} if in_main else {}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None and signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)


def start(command: Sequence[str], launch: Launch, logs: Path) -> int:
    """Run a command in every process and wait for its end.

    The output of rank 0 goes to this terminal, that of the others into ``logs``. SIGINT and SIGTERM are handed on to the
    ranks once, and waited for; a second one ends them.

    Args:
        command: What each process runs; it learns its place from the environment, as with torchrun.
        launch: How many processes.
        logs: A folder for the other ranks' output.

    Returns:
        Exit code: 0; 128 + the signal after an orderly stop.

    Raises:
        RankError: If a rank failed; ``exit_code`` is that of the failure's kind.
        ResourceError: If the machines cannot meet on this one, because another program has the port.
    """
    outcome = _look_after(command, launch, logs)
    if isinstance(outcome, RankError):
        raise outcome
    return outcome


def _look_after(command: Sequence[str], launch: Launch, logs: Path) -> int | RankError:
    """The exit code, or the error; what holds the store has gone by then, and no trace of the error keeps it."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import SignalException

    from ironloom.parallel.launch_agent import Agent, Outputs

    _check_place(launch)
    # The agent's warnings tell what ours tell better.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("rank-*.log"):
        old.unlink()
    spec = WorkerSpec(
        role="ironloom",
        local_world_size=launch.nproc,
        entrypoint=command[0],
        args=tuple(command[1:]),
        rdzv_handler=_rendezvous(launch),
        max_restarts=launch.max_restarts,
        monitor_interval=0.1,
        **_master(launch),
    )
    agent = Agent(spec, Outputs(logs, time.time()), _ORDERLY)
    try:
        with _own_handlers():
            result = agent.run()
    except SignalException as stop:
        return 128 + int(stop.sigval)
    finally:
        spec.rdzv_handler.shutdown()
    if result is not None and not result.is_failed():
        return 0
    code = agent.exit_code()
    if agent.verdict is None and code != RankError.exit_code:
        return code
    lines = agent.verdict.lines if agent.verdict is not None else ("a rank has failed without saying why",)
    error = RankError(lines[0])
    error.exit_code = code
    said = tail(logs, agent.verdict.ranks[0]) if agent.verdict is not None and "ended with exit code" in lines[0] else []
    for line in (*lines[1:], *said, f"the ranks' output: {logs}"):
        error.add_note(line)
    return error


def _rendezvous(launch: Launch) -> Any:
    """Where the machines meet: a store of this process alone, fixed places, or a list that changes."""
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    # Machines that are there when the least number has come go on after some seconds without the others.
    options: dict[str, Any] = {"timeout": 900, "last_call_timeout": 10, "keep_alive_interval": 2, "keep_alive_max_attempt": 3}
    backend, endpoint, run = "c10d", "localhost:0", uuid.uuid4().hex
    if launch.rendezvous is not None:
        endpoint, run = _with_port(launch.rendezvous), "ironloom"
        if launch.node_rank is not None:
            backend, options = "static", {"rank": launch.node_rank, "timeout": 900}
    elif launch.max_nodes == 1:
        options |= {"is_host": True}
    return get_rendezvous_handler(
        RendezvousParameters(backend, endpoint, run, launch.min_nodes, launch.max_nodes, local_addr=_local(launch), **options)
    )


def _check_place(launch: Launch) -> None:
    """Look whether this machine, if it is the one where all meet, can be met.

    Raises:
        ResourceError: If another program has the port.
    """
    from torch.distributed.elastic.rendezvous.utils import _matches_machine_hostname

    if launch.rendezvous is None:
        return
    host, _, port = _with_port(launch.rendezvous).partition(":")
    if launch.node_rank == 0 or (launch.node_rank is None and _matches_machine_hostname(host)):
        check_port(host, int(port), may_be_shared=launch.node_rank is None)


def _master(launch: Launch) -> dict[str, Any]:
    if launch.node_rank is None:
        return {"local_addr": _local(launch)}
    host, _, port = _with_port(str(launch.rendezvous)).partition(":")
    return {"master_addr": host, "master_port": int(port)}


def _local(launch: Launch) -> str | None:
    """On one machine nothing outside of it is asked for a name."""
    return "127.0.0.1" if launch.max_nodes == 1 else None


def _with_port(place: str) -> str:
    return place if ":" in place else f"{place}:{PORT}"


def worker_command(run_file: Path) -> list[str]:
    """The command of a worker that trains a ``run.yaml``."""
    return [sys.executable, "-m", "ironloom", "train", str(run_file)]
