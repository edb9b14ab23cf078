"""``ironloom train``: from a configuration to a trained model."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pathlib
import sys
from typing import Annotated

import typer

from ironloom import config
from ironloom.checkpoint.lock import LOCK, RunLock
from ironloom.cli.configuration import ConfigurationWords, arguments_of, load_checked, output_dir, split, write_run
from ironloom.cli.working import working
from ironloom.config.graph import Graph, Node


def train(
    words: ConfigurationWords,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, even where there is a checkpoint to go on from.")] = False,
) -> None:
    """Train the run that a configuration describes.

    The resolved configuration is written to run.yaml in the output folder; training that file
    repeats the run. An interrupted run goes on from its last checkpoint.

    Example: ironloom train examples/quickstart.yaml operation.train_steps=500
    """
    path, overrides, arguments, _ = split(words, own=["--fresh"])
    graph = load_checked(path, overrides, arguments)
    if int(os.environ.get("RANK", "0")) == 0:
        _write_run(graph)
    if fresh:
        arguments_of(graph)["resume_from_checkpoint"] = False
        _put_aside(output_dir(graph))
    _log_messages(graph)
    _prepare_data(graph)
    objects = config.build(graph, [name for name in ("main", "test_dataset") if name in graph.root])
    trainer, test_dataset = objects["main"], objects.get("test_dataset")
    output = trainer.train()
    trainer.save_model()
    test = trainer.evaluate(test_dataset, metric_key_prefix="test") if test_dataset is not None else None
    from ironloom.cli.summary import show
    from ironloom.trainer import Trainer

    if isinstance(trainer, Trainer):  # a configuration may name a trainer of its own
        show(trainer, output, test)


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


def _prepare_data(graph: Graph) -> None:
    """Tokenize what is not in the cache yet, with a sign of life; the run then finds it there."""
    node = graph.root.get("data")
    if not (isinstance(node, Node) and node.target == "ironloom.data:PretrainData"):
        return  # data of the user's own, which need no preparation by us
    data = config.build(graph, "data")
    with working("preparing the data") as progress:
        data.prepare(progress)


def _log_messages(graph: Graph) -> None:
    """Show the package's messages from the level that the configuration asks for."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ironloom").setLevel(graph.root.get("log_level", "INFO"))
