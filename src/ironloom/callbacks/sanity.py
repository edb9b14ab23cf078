"""A look at validation before the first step, so that a mistake in it shows at once and not after an epoch."""

from __future__ import annotations

import math
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.errors import ConfigError, DataError, Problem
from ironloom.settings.training import TrainingArguments


class SanityCheck(TrainerCallback):
    """Computes the loss of a few validation batches when a run begins, not when it goes on. Nothing is recorded.

    Args:
        num_batches: How many.

    Raises:
        ConfigError: If it is less than 1.
        DataError: When training begins, if a loss is not finite.
    """

    def __init__(self, num_batches: int = 2):
        if num_batches < 1:
            raise ConfigError(Problem(f"expected at least 1, found {num_batches}", path="num_batches"))
        self.num_batches = num_batches

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Try the first batches of the validation data."""
        if kwargs.get("eval_dataloader") is None or state.global_step > 0:
            return
        for number, loss in enumerate(kwargs["validation_losses"](self.num_batches)):
            if not math.isfinite(loss):
                raise DataError(f"the loss of validation batch {number} is {loss} before the first step")
