"""What hooks find on the trainer: the run's place, its parts by name, and what a step may do or report itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ironloom.errors import ConfigError
from ironloom.objectives.base import batch_size
from ironloom.trainer.dream import by_hand
from ironloom.trainer.dream.batches import unpacked
from ironloom.trainer.dream.hooks import DreamHooks
from ironloom.trainer.dream.records import Metric, StepRecords
from ironloom.trainer.dream.steps import StepEngine
from ironloom.trainer.engine import Batch
from ironloom.trainer.trainer import Trainer


class WithinSteps(DreamHooks, Trainer):
    """A trainer whose steps are hooks."""

    records: StepRecords
    _models: dict[str, nn.Module]
    _optimizers: dict[str, Optimizer]
    _schedules: list[tuple[Any, Optimizer]]
    _metrics: dict[str, Metric]
    _is_telling = False

    # What there is, by name

    def named_models(self) -> dict[str, nn.Module]:
        """The models by the names of their attributes."""
        return dict(self._models)

    def named_optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by the names of their attributes, or by those they were returned with."""
        return dict(self._optimizers)

    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by the names of their attributes."""
        return dict(self._metrics)

    @property
    def global_step(self) -> int:
        """Optimizer steps done."""
        step: int = self.state.global_step
        return step

    @property
    def current_epoch(self) -> int:
        """The running epoch, from 0."""
        epoch: int = self._progress.epoch
        return epoch

    @property
    def next_batch(self) -> int:
        """Number in its epoch of the first micro-batch of the running step."""
        per_batch: int = self.train_dataloader.global_batch_size
        return math.ceil(self._progress.samples / per_batch)

    # Within a step

    @property
    def is_accumulating_gradients(self) -> bool:
        """Whether the running micro-batch is one of several of its step, and not the last."""
        window = self._steps.window
        return window is not None and not window.is_last

    def backward(self, loss: torch.Tensor) -> None:
        """Propagate a loss, a mean over the batch, back within ``training_step``, instead of returning it.

        Raises:
            ConfigError: Outside of ``training_step``, and for a loss that has no gradient or that has one already.
        """
        by_hand.backward(self._steps, loss)

    def step(self, optimizer: Optimizer) -> float:
        """Update by an optimizer within ``training_step``, instead of leaving it to the trainer.

        Its gradients are clipped and then dropped; its schedule advances.

        Returns:
            The norm of its gradient before clipping.

        Raises:
            ConfigError: Within an accumulation window.
            NonFiniteError: If a loss or a gradient is not finite.
        """
        return by_hand.step(self._steps, optimizer)

    def log(self, logs: Any, value: Any = None, start_time: float | None = None) -> None:  # type: ignore[override]
        """Record a number by name within a step, or, as in every trainer, a whole record.

        Args:
            logs: A name, or names and values.
            value: The number, if it is a name.
            start_time: As in :meth:`BaseTrainer.log`.
        """
        if isinstance(logs, str):
            self.log_dict({logs: value})
            return
        if "learning_rate" in logs and isinstance(self._engine, StepEngine):  # the record of a window
            logs = {**logs, **self.records.means.take(self.team)}
        super().log(logs, start_time)

    def log_dict(self, numbers: Mapping[str, Any]) -> None:
        """Record numbers: within a step their means over samples, in the next record; outside of one at once."""
        engine = self._engine
        if not isinstance(engine, StepEngine) or not engine.note(numbers):
            super().log(dict(numbers))

    @property
    def _steps(self) -> StepEngine:
        if not isinstance(self._engine, StepEngine):
            raise ConfigError("this belongs into a training_step of your own")
        return self._engine

    def _total(self) -> float:
        window = self._engine.window if isinstance(self._engine, StepEngine) else None
        return 0 if window is None else window.total

    def expected_weight(self, batch: Batch) -> float:
        """What a batch weighs, as far as it is known before its step."""
        if "training_step" in self._overridden:
            return batch_size(batch)
        return self.objective_of_model(unpacked(batch)).weight(batch)

    def tell_before_step(self) -> None:
        """An optimizer is about to be stepped by hand."""
        self._tell("on_pre_optimizer_step")

    def tell_step(self, optimizer: Optimizer) -> None:
        """An optimizer was stepped by hand: its schedule follows."""
        self._tell("on_optimizer_step")
        for scheduler, owner in self._schedules:
            if owner is optimizer:
                scheduler.step()

    def _tell(self, event: str) -> None:
        self._is_telling = True
        try:
            self.emit(event)
        finally:
            self._is_telling = False

    def emit(self, event: str, **kwargs: Any) -> None:
        """As in every trainer; an update by hand has been told when it was made."""
        stepped = isinstance(self._engine, StepEngine) and self._engine.is_stepped_by_hand
        if not (event == "on_pre_optimizer_step" and stepped and not self._is_telling):
            super().emit(event, **kwargs)
