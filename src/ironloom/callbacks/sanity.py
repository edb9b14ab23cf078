"""A look at validation before the first step, so that a mistake in it shows at once and not after an epoch."""

from __future__ import annotations

import itertools
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
        loader = kwargs.get("eval_dataloader")
        if loader is None or state.global_step > 0:
            return
        import torch

        from ironloom.objectives import choose_objective

        model = kwargs["model"]
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            for number, batch in enumerate(itertools.islice(loader.iterate(0), self.num_batches)):
                here = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
                objective = choose_objective(model, lambda here=here: here, None, args.label_names)  # type: ignore[misc]
                with torch.no_grad():
                    loss_sum, _ = objective(model, here, max(1, objective.weight(here)))
                if not math.isfinite(float(loss_sum)):
                    raise DataError(f"the loss of validation batch {number} is {float(loss_sum)} before the first step")
        finally:
            for module in training:
                module.training = True
