"""How many optimizer steps a run has, from epochs, batches and accumulation. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ironloom.errors import ConfigError, DataError


@dataclass(frozen=True)
class StepPlan:
    """The extent of a run.

    Attributes:
        max_steps: Optimizer steps in all.
        num_epochs: Epochs that are begun.
        steps_per_epoch: Optimizer steps of a whole epoch, the last of which may have fewer
            micro-batches; None if the data has no length.
    """

    max_steps: int
    num_epochs: int
    steps_per_epoch: int | None

    def epoch_at(self, epoch: int, micro_batches: int, accumulation: int) -> float:
        """Epochs done, as a number: whole ones and the share of the running one."""
        if self.steps_per_epoch is None:
            return float(epoch)
        return epoch + min(1.0, math.ceil(micro_batches / accumulation) / self.steps_per_epoch)


def plan_steps(batches_per_epoch: int | None, accumulation: int, num_train_epochs: float, max_steps: int) -> StepPlan:
    """Plan a run.

    Args:
        batches_per_epoch: Micro-batches of an epoch on each rank; None if the data has no length.
        accumulation: Micro-batches of an optimizer step.
        num_train_epochs: Epochs wanted, when ``max_steps`` is not positive.
        max_steps: Optimizer steps wanted, or -1.

    Raises:
        DataError: If an epoch is empty.
        ConfigError: If the data has no length and ``max_steps`` is not given.
    """
    if batches_per_epoch is None:
        if max_steps <= 0:
            raise ConfigError("the training data has no length, so num_train_epochs says nothing: set max_steps")
        return StepPlan(max_steps, num_epochs=10**9, steps_per_epoch=None)
    if batches_per_epoch == 0:
        raise DataError("the training data makes no batch: it is empty, or dataloader_drop_last drops its only batch")
    steps_per_epoch = math.ceil(batches_per_epoch / accumulation)
    steps = max_steps if max_steps > 0 else math.ceil(num_train_epochs * steps_per_epoch)
    return StepPlan(steps, math.ceil(steps / steps_per_epoch), steps_per_epoch)
