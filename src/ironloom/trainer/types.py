"""What every trainer is, and what its methods return."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class TrainOutput(NamedTuple):
    """Result of training.

    Attributes:
        global_step: Optimizer steps done.
        training_loss: Mean over all targets trained on since step 0.
        metrics: Runtime in seconds, throughput, the loss again.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """Result of prediction: logits and labels as NumPy arrays (padded with -100 to one length), and metrics."""

    predictions: np.ndarray | None
    label_ids: np.ndarray | None
    metrics: dict[str, float] | None


@dataclass(frozen=True)
class EvalPrediction:
    """What ``compute_metrics`` gets; unpacks into ``predictions, label_ids``."""

    predictions: np.ndarray
    label_ids: np.ndarray | None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.predictions, self.label_ids))

    def __getitem__(self, index: int) -> Any:
        return (self.predictions, self.label_ids)[index]


class AbstractBaseTrainer(ABC):
    """The least that a trainer can do."""

    @abstractmethod
    def train(self, **kwargs: Any) -> TrainOutput:
        """Train the model."""

    @abstractmethod
    def evaluate(self, eval_dataset: Any = None, **kwargs: Any) -> dict[str, float]:
        """Evaluate the model; ``eval_dataset`` replaces the trainer's own."""

    @abstractmethod
    def save_model(self, output_dir: os.PathLike[str] | str | None = None) -> None:
        """Write the model to ``output_dir``, by default the run's."""


class ExtensibleTrainer(AbstractBaseTrainer):
    """A trainer that calls callbacks."""

    @abstractmethod
    def add_callback(self, callback: Any) -> None:
        """Add a callback; a class is instantiated."""

    @abstractmethod
    def pop_callback(self, callback: Any) -> Any | None:
        """Remove and return a callback, given itself or its class; None if there is none."""

    @abstractmethod
    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given itself or its class."""
