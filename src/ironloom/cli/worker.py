"""What ``ironloom train`` does as one process of several: compare with the others, be watched, go on after a restart."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ironloom import __version__
from ironloom.checkpoint.discovery import findings
from ironloom.cli.configuration import arguments_of, output_dir
from ironloom.cli.train import DATA_PARALLEL, PROCESSES
from ironloom.config import tagged
from ironloom.config.graph import Graph, Node, is_plain, walk
from ironloom.config.prepared import data_nodes
from ironloom.config.processes import data_parallel
from ironloom.errors import ConfigError
from ironloom.parallel import preflight
from ironloom.parallel.environment import Launched, launched
from ironloom.parallel.launch_agent import LAUNCHED, TOKEN
from ironloom.parallel.launch_logs import settle_in
from ironloom.parallel.watch import Watch
from ironloom.parallel.watch_store import open_store
from ironloom.settings.model import ModelConfig, count_parameters

if TYPE_CHECKING:
    pass

# Bytes of a parameter in a checkpoint: weight and two moments in float32.
_BYTES = 12
_SAMPLES = 8
# Preparing a large corpus takes hours; the ranks that wait for it are not stuck.
_PREPARING = 24 * 3600.0

T = TypeVar("T")


class Worker:
    """This process among the others.

    Args:
        variables: The environment.
    """

    def __init__(self, variables: Mapping[str, str]):
        self.place: Launched = launched(variables)
        self.is_ours = TOKEN in variables
        self._started = float(variables.get(LAUNCHED, "inf"))
        self._token = variables.get(TOKEN) or "-".join(
            variables.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID")
        )
        # Where an agent holds a store it is used; else rank 0 holds one for this, beside that of the process group.
        self._store: Any = None
        self._watch: Watch | None = None
        settle_in(variables)
        self._has_agent = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.place.rank == 0

    @contextlib.contextmanager
    def watched(self, limit: float) -> Iterator[Watch]:
        """The block is watched; a failure of another rank ends it with a :class:`RankError`."""
        place = self.place
        port = place.master_port + (0 if self._has_agent else 1)
        self._store = open_store(place.master_addr, port, self._token, serve=not self._has_agent and self.is_first)
        watch = self._watch = Watch(self._store, place.rank, place.world_size, self._token, limit=limit, observes=not self.is_ours)
        with watch:
            yield watch

    def compare(self, graph: Graph) -> None:
        """Compare versions and configuration with the other ranks, and look at the disk."""
        preflight.check_disk(output_dir(graph), checkpoint_bytes(graph))
        text = hashlib.sha256(tagged.dump(graph).encode()).hexdigest()[:16]
        place = self.place
        preflight.compare(self._store, "versions", place.rank, place.world_size, {**preflight.versions(__version__), "configuration": text})

    def in_turn(self, function: Callable[[], T], patience: float) -> T:
        """Call a function in the first process of each machine, then in its others, which find what it has left on the disk.

        Args:
            function: Prepares the data.
            patience: Seconds that what follows may take, until training begins.
        """
        assert self._watch is not None, "only inside watched()"
        self._watch.phase("preparing the data", -1, _PREPARING)
        ready = f"ready/{socket.gethostname()}"
        if self.place.local_rank == 0:
            result = function()
            self._store.set(ready, "")
        else:
            while not self._store.check([ready]):
                time.sleep(0.02)
            result = function()
        self._watch.phase("building", -1, max(self._watch.limit, patience))
        return result

    def compare_data(self, samples: Any) -> None:
        """Compare the data with the other ranks': its length, and some samples spread over it."""
        preflight.compare(self._store, "data", self.place.rank, self.place.world_size, {"data": fingerprint(samples)})

    def adapt(self, graph: Graph) -> None:
        """Take as many samples a step as the run was written for, and go on from what an earlier attempt has saved."""
        arguments = arguments_of(graph)
        world = self.place.world_size
        copies = data_parallel(graph, world)
        planned = graph.root.get(DATA_PARALLEL, graph.root.get(PROCESSES, copies))
        samples = arguments.get("gradient_accumulation_steps", 1) * planned
        if samples % copies:
            shared = f", {world // copies} of which share the same samples," if copies != world else ""
            raise ConfigError(
                f"the run accumulates {samples // planned} batches on {planned} processes, which {world} processes{shared} "
                f"cannot share evenly: start as many as divide {samples}{f' times {world // copies}' if shared else ''}"
            )
        if planned != copies:
            arguments["gradient_accumulation_steps"] = samples // copies
        checkpoints = findings(output_dir(graph) / "checkpoints")
        if any(found.checkpoint is not None and found.checkpoint.time >= self._started for found in checkpoints):
            arguments["resume_from_checkpoint"] = True


def checkpoint_bytes(graph: Graph) -> int:
    """About what a checkpoint takes; 0 where the graph does not tell the model's size."""
    shapes = [value for _, value in walk(graph.root) if isinstance(value, Node) and value.target == "ironloom.settings:ModelConfig"]
    data = list(data_nodes(graph))
    if not shapes or not data or not is_plain(shapes[0].kwargs):
        return 0
    return _BYTES * count_parameters(ModelConfig(**shapes[0].kwargs), data[0].kwargs.get("vocab_size") or 0)


def fingerprint(samples: Any) -> str:
    """Of the length of a dataset and of some of its samples."""
    count = len(samples)
    hasher = hashlib.sha256(str(count).encode())
    for number in sorted({round(place * (count - 1) / (_SAMPLES - 1)) for place in range(_SAMPLES)} if count else ()):
        for name, value in sorted(samples[number].items()):
            hasher.update(name.encode() + np.asarray(value).tobytes())
    return hasher.hexdigest()[:16]
