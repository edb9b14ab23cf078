"""Evaluation and prediction: one pass over a data set, loss as a token mean over all of it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ironloom.device import random_key, seed_everything
from ironloom.errors import DataError
from ironloom.objectives.base import IGNORE_INDEX, batch_size
from ironloom.objectives.weighted import plain
from ironloom.parallel.team import Team
from ironloom.trainer.engine import Batch, EvalStep, NativeEngine


@dataclass
class Evaluation:
    """Sums over a data set, and the logits and labels where they are kept.

    Attributes:
        loss_sum: Loss sum over all targets.
        weight: Number of targets, or the sum of their weights.
        samples: Samples seen.
        batches: Batches seen.
        seconds: Wall time.
        predictions: Logits of each batch, if asked for.
        labels: Labels of each batch, likewise.
        sums: What the objective reports beside the loss, by name; divided by the weight as the loss is.
    """

    loss_sum: float = 0.0
    weight: float = 0
    samples: int = 0
    batches: int = 0
    seconds: float = 0.0
    predictions: list[torch.Tensor] = field(default_factory=list)
    labels: list[torch.Tensor] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, step: EvalStep, batch: Batch, keep: Callable[[torch.Tensor, Any], torch.Tensor] | None, labels_key: str) -> None:
        """Count one batch; ``keep`` and ``labels_key`` as in :func:`evaluate`."""
        self.loss_sum += step.loss_sum
        self.weight += step.weight
        for name, value in zip(self.sums, step.sums, strict=False):  # a prediction has none
            self.sums[name] += value
        self.samples += batch_size(batch)
        if keep is not None and step.logits is not None:
            labels = batch.get(labels_key, batch.get("shift_labels"))
            self.predictions.append(keep(step.logits, labels).float().cpu())
            if isinstance(labels, torch.Tensor):
                self.labels.append(labels.cpu())

    def unite(self, team: Team) -> None:
        """Make the sums those of all processes, and the kept tensors those of all in the order of the data."""
        self.loss_sum, weight, samples, *sums = team.sum([self.loss_sum, self.weight, self.samples, *self.sums.values()])
        self.sums = dict(zip(self.sums, sums, strict=True))
        self.weight, self.samples = plain(weight), int(samples)
        if any(team.gather(bool(self.predictions))):
            parts = team.gather((self.predictions, self.labels))
            self.predictions = _in_order([predictions for predictions, _ in parts])
            self.labels = _in_order([labels for _, labels in parts])

    def absorb(self, other: Evaluation) -> None:
        """Make the sums those of both data sets; what is kept of the other stays there."""
        self.loss_sum += other.loss_sum
        self.weight += other.weight
        self.samples += other.samples
        self.batches += other.batches
        self.seconds += other.seconds
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in other.sums.items()}

    @property
    def loss(self) -> float:
        """Mean loss over all targets; not a number if every target is masked."""
        return self.loss_sum / self.weight if self.weight else float("nan")

    def metrics(self, prefix: str) -> dict[str, float]:
        """Loss, runtime and throughput under ``prefix``."""
        return {
            f"{prefix}_loss": self.loss,
            **{f"{prefix}_{name}": value / self.weight for name, value in self.sums.items() if self.weight},
            f"{prefix}_runtime": self.seconds,
            f"{prefix}_samples_per_second": self.samples / self.seconds,
            f"{prefix}_steps_per_second": self.batches / self.seconds,
        }


def evaluate(
    engine: NativeEngine,
    loader: Any,
    seed: int,
    *,
    keep: Callable[[torch.Tensor, Any], torch.Tensor] | None = None,
    labels_key: str = "labels",
    need_labels: bool = True,
    after_batch: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    team: Team | None = None,
) -> Evaluation | None:
    """Run the model over a data set in evaluation mode.

    Args:
        engine: Computes the loss of a batch.
        loader: Its epoch 0 is the data set.
        seed: Seeds whatever is random in the model, so that an evaluation repeats itself.
        keep: Turns logits and labels into what is kept of them; None keeps nothing.
        labels_key: Key of the labels in a batch.
        need_labels: Whether a batch without labels is an error; else it gives logits and no loss.
        after_batch: Called after each batch.
        stop: Asked before each batch; True ends the evaluation without a result.
        team: The processes that evaluate parts of the data.

    Returns:
        The sums over all processes, or None if it was stopped.

    Raises:
        DataError: If the data set is empty.
    """
    result, start = Evaluation(sums=dict.fromkeys(engine.reports, 0.0)), time.perf_counter()
    with evaluation_mode(engine):
        for index, batch in enumerate(loader.iterate(0)):
            if stop():
                return None
            seed_everything(random_key("evaluate", seed, index))
            result.batches += 1
            if need_labels or batch is None or labels_key in batch or "shift_labels" in batch:
                step = engine.evaluate(batch, keep_logits=keep is not None)
            else:
                step = engine.predict(batch)
            if batch is not None:
                result.add(step, batch, keep, labels_key)
            after_batch()
    if team is not None and not team.is_alone:
        result.unite(team)
    if not result.batches:
        raise DataError("the evaluation data is empty")
    result.seconds = max(time.perf_counter() - start, 1e-9)
    return result


def first_losses(engine: NativeEngine, loader: Any, num_batches: int, seed: int, team: Team) -> list[float]:
    """The mean loss of each of the first batches, over all processes; 0 where a batch has no targets.

    Args:
        engine: Computes the loss of a batch.
        loader: Its epoch 0 is the data set.
        num_batches: How many, as far as there are.
        seed: As for :func:`evaluate`.
        team: The processes that have parts of a batch, or nothing of it.
    """
    losses = []
    with evaluation_mode(engine), contextlib.closing(loader.iterate(0)) as batches:
        for index, batch in enumerate(itertools.islice(batches, num_batches)):
            seed_everything(random_key("evaluate", seed, index))
            step = engine.evaluate(batch, keep_logits=False)
            loss_sum, weight = team.sum([step.loss_sum, step.weight])
            losses.append(loss_sum / (weight or 1))
    return losses


@contextlib.contextmanager
def evaluation_mode(engine: NativeEngine) -> Iterator[None]:
    """The model in evaluation mode. Each module by itself: a part that is frozen in that mode must stay there."""
    training = [module for module in engine.model.modules() if module.training]
    engine.model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _in_order(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The batches of several processes, each of which had a part of each global batch, or nothing of the last."""
    return [batch for batches in itertools.zip_longest(*parts) for batch in batches if batch is not None]


def joined(parts: list[torch.Tensor]) -> np.ndarray | None:
    """Batches as one array; those of different lengths are padded with -100 at the end."""
    if not parts:
        return None
    if parts[0].ndim > 1:
        longest = max(part.shape[1] for part in parts)
        fill = [0, 0] * (parts[0].ndim - 2)
        parts = [F.pad(part, [*fill, 0, longest - part.shape[1]], value=IGNORE_INDEX) for part in parts]
    array: np.ndarray = torch.cat(parts).numpy()
    return array
