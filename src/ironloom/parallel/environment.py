"""The place of this process among those that a launcher started, and the process group they make.

torchrun and its likes say it in ``RANK``, ``WORLD_SIZE`` ..., SLURM's ``srun`` in ``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS`` ...;
without either there is one process. No environment variable is changed.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ironloom.device import choose_device
from ironloom.errors import ConfigError, RankError
from ironloom.settings.dream.device import Comm

#: Where the first process of a SLURM job listens unless ``MASTER_PORT`` says otherwise.
DEFAULT_PORT = 29501


@dataclass(frozen=True)
class Launched:
    """What a launcher says of a process: its numbers, and where the first process listens."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT
    has_store: bool = False


def launched(variables: Mapping[str, str]) -> Launched:
    """Read the environment of torchrun or of SLURM; one process if there is neither.

    Raises:
        ConfigError: If a variable is missing or is no number, or a rank is outside its world.
    """
    if "RANK" in variables or "WORLD_SIZE" in variables:
        number, prefix = _reader(variables), "RANK and WORLD_SIZE"
        rank, world = number("RANK"), number("WORLD_SIZE")
        local_world = number("LOCAL_WORLD_SIZE", world)
        address, port = variables.get("MASTER_ADDR", "127.0.0.1"), number("MASTER_PORT", DEFAULT_PORT)
        found = Launched(rank, number("LOCAL_RANK", rank % local_world), world, local_world, address, port, has_store=True)
    elif "SLURM_PROCID" in variables and "SLURM_STEP_NUM_TASKS" in variables:
        # Of the variables that name a number of tasks only this one is srun's; a batch script alone is one process.
        number, prefix = _reader(variables), "SLURM_PROCID and SLURM_STEP_NUM_TASKS"
        world, rank = number("SLURM_STEP_NUM_TASKS"), number("SLURM_PROCID")
        local_world = int(re.match(r"\d+", variables.get("SLURM_STEP_TASKS_PER_NODE", str(world))).group())  # type: ignore[union-attr]
        hosts = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_JOB_NODELIST", "127.0.0.1"))
        address = variables.get("MASTER_ADDR", first_host(hosts))
        found = Launched(rank, number("SLURM_LOCALID", 0), world, local_world, address, number("MASTER_PORT", DEFAULT_PORT))
    else:
        return Launched()
    if not 0 <= found.rank < found.world_size:
        raise ConfigError(f"{prefix} say process {found.rank} of {found.world_size}: ranks count from 0; start the processes with torchrun")
    return found


def _reader(variables: Mapping[str, str]) -> Any:
    def number(name: str, default: int | None = None) -> int:
        text = variables.get(name)
        if text is None:
            if default is None:
                raise ConfigError(f"{name} is not set beside the other variables of a launcher: start the processes with torchrun")
            return default
        if not text.isdecimal():
            raise ConfigError(f"{name} is {text!r} in the environment, a number was expected: start the processes with torchrun")
        return int(text)

    return number


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: ``node[03-05,9],other`` -> ``node03``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    return match.group(1) + (match.group(2) or "") if match else nodes


class DistributedEnvironment:
    """This process among all, on its device.

    Numbers that are not given come from the environment. The process group is made by :meth:`start`, once, and given
    up at the end of the process or by :meth:`close`; one that is there already is used and left alone.

    Args:
        rank: Number of this process among all.
        local_rank: Number among those of this machine.
        world_size: Number of processes.
        local_world_size: Number of processes on this machine.
        master_addr: Machine of the first process.
        master_port: Port there.
        backend: Of ``torch.distributed``; by default the device's own (gloo on the CPU, nccl on CUDA).
        use_cpu: Stay on the CPU even where there is an accelerator.
        timeout: Seconds that a collective may take.

    Raises:
        ConfigError: If the environment is that of a launcher but is not whole.
    """

    def __init__(
        self,
        rank: int | None = None,
        local_rank: int | None = None,
        world_size: int | None = None,
        local_world_size: int | None = None,
        master_addr: str | None = None,
        master_port: int | None = None,
        backend: str | None = None,
        use_cpu: bool = False,
        timeout: float = 600.0,
    ):
        found = launched(os.environ) if rank is None or world_size is None else Launched(rank, rank, world_size, world_size)
        self.rank = found.rank if rank is None else rank
        self.world_size = found.world_size if world_size is None else world_size
        self.local_rank = found.local_rank if local_rank is None else local_rank
        self.local_world_size = found.local_world_size if local_world_size is None else local_world_size
        self.master_addr = found.master_addr if master_addr is None else master_addr
        self.master_port = found.master_port if master_port is None else master_port
        self.timeout = timeout
        self._uses_env = found.has_store and master_addr is None and master_port is None
        self.device = self._choose_device(use_cpu)
        self.backend = backend

    @property
    def device_type(self) -> str:
        """``cpu``, ``cuda`` ..."""
        return self.device.type

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first process of all."""
        return self.rank == 0

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is the first process of its machine."""
        return self.local_rank == 0

    def heed(self, comm: Comm) -> None:
        """Take what settings say of the process group; call it before :meth:`start`."""
        if comm.backend is not None and (comm.backend != "nccl" or self.device_type == "cuda"):
            self.backend = comm.backend
        if (comm.init_timeout_seconds, comm.train_timeout_seconds) != (Comm.init_timeout_seconds, Comm.train_timeout_seconds):
            self.timeout = float(max(comm.init_timeout_seconds, comm.train_timeout_seconds))

    def start(self, alone: bool = False) -> None:
        """Meet the other processes. Does nothing where there is a process group already, or one process.

        Args:
            alone: Whether one process is to have a group, too.

        Raises:
            RankError: If they do not come, or the first process cannot be reached.
        """
        if self.world_size == 1 and not alone:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            return
        options: dict[str, Any] = {"rank": self.rank, "world_size": self.world_size, "timeout": datetime.timedelta(seconds=self.timeout)}
        if self.device.type != "cpu":
            torch.accelerator.set_device_index(self.device.index or 0)
        try:
            if self.world_size == 1:
                options["store"] = dist.HashStore()  # type: ignore[attr-defined]
            elif not self._uses_env:
                address = (self.master_addr, self.master_port)
                options["store"] = dist.TCPStore(*address, self.world_size, self.rank == 0)  # type: ignore[attr-defined]
            dist.init_process_group(self.backend or dist.get_default_backend_for_device(self.device), **options)
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise RankError(
                f"rank {self.rank} of {self.world_size} does not reach the first process at {self.master_addr}:{self.master_port}: {error}"
            ) from error
        atexit.register(self.close)

    def close(self) -> None:
        """Leave the process group that :meth:`start` made."""
        import torch.distributed as dist

        atexit.unregister(self.close)
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The block runs in the first process of each machine, then in its others: the first fills a cache, they find it."""
        if self.world_size == 1:
            yield
            return
        import torch.distributed as dist

        self.start()
        try:
            if not self.is_local_main_process:
                dist.barrier()
            yield
        finally:
            if self.is_local_main_process:
                dist.barrier()

    def _choose_device(self, use_cpu: bool) -> torch.device:
        device = choose_device(use_cpu)
        if device.type == "cpu" or self.world_size == 1:
            return device
        count = torch.accelerator.device_count()
        if self.local_rank >= count:
            raise ConfigError(
                f"{self.local_world_size} processes were started on this machine, which has {count} devices: "
                f"start {count}, or set use_cpu to run without them"
            )
        return torch.device(device.type, self.local_rank)


def main_process_first() -> contextlib.AbstractContextManager[None]:
    """:meth:`DistributedEnvironment.main_process_first` of this process."""
    return DistributedEnvironment().main_process_first()
