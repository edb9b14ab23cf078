"""What an engine of steps knows of the optimizer step that is running."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ironloom.trainer.engine import Batch

if TYPE_CHECKING:
    from ironloom.trainer.dream.trainer import DreamTrainer


class StepWeight:
    """The place of an objective in an engine whose loss comes from a step: it only counts."""

    def __init__(self, trainer: DreamTrainer):
        self._trainer = trainer

    def weight(self, batch: Batch) -> float:
        """What the batch is expected to weigh: its samples, or what the default step counts."""
        return self._trainer.expected_weight(batch)

    def __call__(self, model: Any, batch: Batch, total: float) -> tuple[torch.Tensor, Any]:
        """Never called: the engine calls the step."""
        raise AssertionError("the step engine calls training_step")


@dataclass
class Window:
    """The micro-batches of an optimizer step.

    Attributes:
        total: What all losses of the step are divided by.
        count: Micro-batches in this process.
        index: The running one.
        weight: What the steps so far turned out to weigh.
        stepped: Optimizers that the user's code has stepped, with the norms of their gradients.
        backward: Losses of the running micro-batch that the user's code has propagated back, as sums.
        loss: Sum of all losses so far.
        share: Factor of this process's losses: 0 where it takes part without samples of its own.
    """

    total: float
    count: int
    index: int = 0
    weight: float = 0
    stepped: list[float] = field(default_factory=list)
    backward: list[torch.Tensor] = field(default_factory=list)
    loss: float = 0.0
    share: float = 1.0

    @property
    def is_last(self) -> bool:
        """Whether the running micro-batch completes the step."""
        return self.index == self.count - 1
