"""``ironloom train``: from a configuration to a trained model."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ironloom import config
from ironloom.checkpoint.lock import LOCK, RunLock
from ironloom.cli.configuration import (
    RUN_FILE,
    ConfigurationWords,
    arguments_of,
    as_processes,
    load_checked,
    output_dir,
    split,
    write_run,
)
from ironloom.cli.messages import show_messages
from ironloom.cli.working import working
from ironloom.config import tagged
from ironloom.config.graph import Graph
from ironloom.config.prepared import is_data
from ironloom.config.processes import communication, data_parallel
from ironloom.environment import environment
from ironloom.errors import ConfigError, Interrupted, IronloomError
from ironloom.settings.dream.device import Comm

if TYPE_CHECKING:
    from ironloom.data import PretrainData, SFTData
    from ironloom.parallel.launch import Launch
    from ironloom.parallel.watch import Watch

#: Number of processes that a run was written for, a target of run.yaml; and of those that read different samples, if that is another.
PROCESSES, DATA_PARALLEL = "processes", "data_parallel_processes"
#: Environment variable that sizes PyTorch's recorder of collectives.
RECORDER = "TORCH_FR_BUFFER_SIZE"


def train(
    words: ConfigurationWords,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, even where there is a checkpoint to go on from.")] = False,
    nproc: Annotated[int | None, typer.Option("--nproc", min=1, help="Processes to start on this machine.")] = None,
    nnodes: Annotated[str, typer.Option("--nnodes", metavar="N|MIN:MAX", help="Machines that take part.")] = "1",
    node_rank: Annotated[int | None, typer.Option("--node-rank", help="Number of this machine.")] = None,
    rdzv: Annotated[str | None, typer.Option("--rdzv", metavar="HOST:PORT", help="Where several machines meet.")] = None,
    max_restarts: Annotated[int, typer.Option("--max-restarts", min=0, help="After a failure go on so often.")] = 0,
    patience: Annotated[
        float | None, typer.Option("--patience", min=1, help="Seconds without progress that count as a failure; else as configured, 600.")
    ] = None,
) -> None:
    """Train the run that a configuration describes.

    The resolved configuration is written to run.yaml in the output folder; training that file
    repeats the run. An interrupted run goes on from its last checkpoint. With --nproc several
    processes share the work; inside torchrun or SLURM each process finds its place.

    Example: ironloom train examples/quickstart.yaml operation.train_steps=500
    """
    placed = _is_placed(nproc)
    if nproc is None and not placed and (nnodes != "1" or node_rank is not None or rdzv is not None or max_restarts):
        raise ConfigError("--nnodes, --node-rank, --rdzv and --max-restarts say how processes are started; give --nproc too")
    if nproc is not None and not placed and (nproc > 1 or nnodes != "1" or max_restarts):
        from ironloom.parallel.launch import plan

        _launch(words, plan(nproc, nnodes, node_rank, rdzv, max_restarts), fresh, patience)
    elif placed:
        _train_placed(words, fresh, patience)
    else:
        _train_alone(words, fresh)


_OPTIONS = ["--fresh", "--nproc", "--nnodes", "--node-rank", "--rdzv", "--max-restarts", "--patience"]


def _is_placed(nproc: int | None) -> bool:
    """Whether a launcher has started this process as one of several."""
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        return False
    from ironloom.parallel.launch import is_placed

    return is_placed(os.environ, nproc) and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", "1"))) > 1


def _load(words: list[str]) -> Graph:
    path, overrides, arguments, _ = split(words, own=_OPTIONS)
    return load_checked(path, overrides, arguments)


def _train_alone(words: list[str], fresh: bool) -> None:
    with as_processes(1):
        graph = _load(words)
    if int(os.environ.get("RANK", "0")) == 0:
        _write_run(graph)
    if fresh:
        arguments_of(graph)["resume_from_checkpoint"] = False
        _put_aside(output_dir(graph))
    if PROCESSES in graph.root:
        from ironloom.cli.worker import Worker

        Worker(os.environ).adapt(graph)
    show_messages(graph)
    _prepare_data(graph)
    _run(graph)


def _launch(words: list[str], launch: Launch, fresh: bool, patience: float | None) -> None:
    """Write run.yaml, then start the processes on it."""
    from ironloom.parallel.launch import start, worker_command

    with as_processes(launch.world, launch.nproc):
        graph = _load(words)
    if PROCESSES not in graph.root:
        graph.root[PROCESSES] = launch.world
        copies = data_parallel(graph, launch.world)
        if copies != launch.world:
            graph.root[DATA_PARALLEL] = copies
    folder = output_dir(graph)
    if not (launch.max_nodes > 1 and _is_written(graph, folder)):
        _write_run(graph)
    if fresh:
        _put_aside(folder)
    command = [*worker_command(folder / RUN_FILE), *(() if patience is None else ("--patience", str(patience)))]
    with _recording(communication(graph)):
        code = start(command, launch, folder / "logs")
    if code:
        sys.exit(code)


@contextlib.contextmanager
def _recording(comm: Comm) -> Iterator[None]:
    """Within the block processes that start keep as many collectives in PyTorch's recorder as the configuration says."""
    if comm.trace_buf_size == Comm.trace_buf_size or RECORDER in os.environ:
        yield
        return
    with environment({RECORDER: str(comm.trace_buf_size)}):
        yield


def _train_placed(words: list[str], fresh: bool, patience: float | None) -> None:
    """Train as one of several processes."""
    from ironloom.cli.worker import Worker

    worker = Worker(os.environ)
    with as_processes(worker.place.world_size, worker.place.local_world_size):
        graph = _load(words)
    if fresh:
        arguments_of(graph)["resume_from_checkpoint"] = False
    if not worker.is_ours and worker.is_first:
        _write_run(graph)
        if fresh:
            _put_aside(output_dir(graph))
    worker.adapt(graph)
    show_messages(graph)
    try:
        comm = communication(graph)
        with _recording(comm), worker.watched(patience or comm.train_timeout_seconds) as watch:
            worker.compare(graph)
            data = worker.in_turn(lambda: _prepare_data(graph), comm.init_timeout_seconds)
            if data is not None:
                worker.compare_data(data.train)
            _run(graph, watch)
    except Interrupted:
        raise
    except IronloomError as error:
        if not worker.is_ours:
            raise
        sys.exit(error.exit_code)  # the launcher tells it, for all ranks


def _run(graph: Graph, watch: Watch | None = None) -> None:
    """Build the objects and let them train."""
    objects = config.build(graph, [name for name in ("main", "test_dataset") if name in graph.root])
    trainer, test_dataset = objects["main"], objects.get("test_dataset")
    from ironloom.trainer import Trainer

    if watch is not None and isinstance(trainer, Trainer):  # a configuration may name a trainer of its own
        trainer.phase = watch.phase  # type: ignore[method-assign]
    output = trainer.train()
    trainer.save_model()
    test = trainer.evaluate(test_dataset, metric_key_prefix="test") if test_dataset is not None else None
    if isinstance(trainer, Trainer) and (watch is None or watch.rank == 0):
        from ironloom.cli.summary import show

        show(trainer, output, test)


def _is_written(graph: Graph, folder: pathlib.Path) -> bool:
    """Whether the folder holds this very run already: another machine's launcher was faster."""
    file = folder / RUN_FILE
    return file.is_file() and file.read_text(encoding="utf-8") == tagged.dump(graph)


def _write_run(graph: Graph) -> None:
    """Write run.yaml, but not over that of a run that is under way.

    Raises:
        ResourceError: If another run holds the folder, or it cannot be written.
    """
    folder = output_dir(graph)
    # Only a folder in which something has run has a lock; a new one is left as it is.
    with RunLock(folder) if (folder / LOCK).exists() else contextlib.nullcontext():
        write_run(graph, folder)


def _put_aside(folder: pathlib.Path) -> None:
    """Keep the checkpoints of an earlier run under another name, where nothing goes on from them by itself."""
    earlier = folder / "checkpoints"
    if not earlier.exists():
        return
    number = next(number for number in itertools.count(1) if not (folder / f"checkpoints.{number}").exists())
    kept = folder / f"checkpoints.{number}"
    with RunLock(folder):
        earlier.rename(kept)
    print(f"the checkpoints of the earlier run are kept in {kept}", file=sys.stderr)


def _prepare_data(graph: Graph) -> PretrainData | SFTData | None:
    """Tokenize what is not in the cache yet, with a sign of life; the run then finds it there."""
    node = graph.root.get("data")
    if not is_data(node):
        return None  # data of the user's own, which need no preparation by us
    data = config.build(graph, "data")
    with working("preparing the data") as progress:
        data.prepare(progress)
    return data  # type: ignore[no-any-return]
