"""The trained model of several processes, put into a folder by the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ironloom.checkpoint.publish import publish_files
from ironloom.trainer.snapshot import stem_of, weights_of, write_companions
from ironloom.weights.parts import Part, weight_parts
from ironloom.weights.peers import Failure, Peers, raise_first


def publish_together(model: nn.Module, processing_class: Any, folder: Path, peers: Peers) -> None:
    """Write weights, configuration and tokenizer; every process calls this.

    Raises:
        ResourceError: In every process, if the disk is full or the folder cannot be written.
    """
    parts = weight_parts(weights_of(model), peers, writers=[0], stem=stem_of(model))
    fault: Exception | None = None
    if peers.rank == 0:
        try:
            publish_files(folder, lambda staging: _write(model, processing_class, parts, staging))
        except Exception as error:
            fault = error
    for _ in parts:  # whatever happened here: the others exchange tensors until the last
        pass
    raise_first([peers.broadcast(None if fault is None else Failure.of(fault, peers))], fault, peers)


def _write(model: nn.Module, processing_class: Any, parts: Iterator[Part], folder: Path) -> None:
    for part in parts:
        part.write(folder)
        part.check(folder)
    write_companions(model, processing_class, folder)
