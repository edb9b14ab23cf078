"""The trainer over Accelerate: the one loop, and processes that each hold a copy of the model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.settings.accel import AccelTrainingArguments
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments, arguments_of
from ironloom.trainer.accelerated import Accelerated, check_handlers, check_place, take_given, take_launched
from ironloom.trainer.dispatched import DispatchedLoader
from ironloom.trainer.engine import NativeEngine
from ironloom.trainer.loaders import build_loader
from ironloom.trainer.trainer import Trainer
from ironloom.trainer.types import PredictionOutput, TrainOutput

if TYPE_CHECKING:
    from accelerate import Accelerator


class AccelTrainer(Trainer):
    """Trains with Hugging Face Accelerate, in one process or in as many as a launcher started.

    Takes the arguments of :class:`Trainer` and:

    Args:
        accelerator: An ``Accelerator`` to use; None: one is made of ``accelerator_args``, with a state of its own. Either way
            losses, gradients, samples and checkpoints are those of the other trainers.

    Raises:
        ConfigError: For what an Accelerator cannot be asked for here, each by name, and for contradictions of the arguments.
    """

    _draws_parts = False

    def __init__(
        self,
        model: nn.Module | None = None,
        args: dict[str, Any] | TrainingArguments | None = None,
        *rest: Any,
        accelerator: Accelerator | None = None,
        device_parameters: DeviceParameters | None = None,
        **kwargs: Any,
    ):
        arguments = arguments_of(AccelTrainingArguments, args)
        if device_parameters is not None:
            raise ConfigError("AccelTrainer gives each process a copy of the model: device_parameters are Trainer's")
        if accelerator is None:
            take_launched(arguments, os.environ)
        else:
            take_given(arguments, accelerator)
        self._accelerated = Accelerated(accelerator)
        given = arguments.accelerator_args or {}
        self._dispatches: bool = given.get("dispatch_batches") is True if accelerator is None else accelerator.dispatch_batches is True
        super().__init__(model, arguments, *rest, **kwargs)
        if accelerator is not None:
            self.environment = DistributedEnvironment(use_cpu=accelerator.device.type == "cpu")
            self.device = self.environment.device
            check_place(accelerator, self.environment)
            check_handlers(accelerator)

    @property
    def accelerator(self) -> Accelerator:
        """The Accelerator; one of the trainer's own is made when it is first asked for, and the processes meet.

        It knows its place while the trainer trains or evaluates, so that callbacks can use it; for more than that give one of yours.
        """
        if self._accelerated._accelerator is None:
            assert self.team is not None  # Accelerate takes the process group that is there
            assert isinstance(self.args, AccelTrainingArguments)
            self._accelerated.make(self.args, self.environment)
            check_handlers(self._accelerated.accelerator)
        return self._accelerated.accelerator

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, as :meth:`Trainer.train` says."""
        with self._accelerated.in_force():
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, as :meth:`Trainer.evaluate` says."""
        with self._accelerated.in_force():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Predict, as :meth:`Trainer.predict` says."""
        with self._accelerated.in_force():
            return super().predict(*args, **kwargs)

    def _prepared_engine(self, loader: Any) -> NativeEngine:
        """The engine of the model; ``loader`` gives a batch to try if the kind of the model's loss is not known."""
        if self._engine is None or self._engine.model is not self.model:
            from ironloom.trainer.accel_engine import AccelEngine

            self._check_precision()
            assert self.accelerator is not None
            give_weights(self.model, self.device)
            self.model.to(self.device)
            self._engine = AccelEngine(self.model, self._objective(loader), self.args, self.team, self._accelerated)
        return self._engine

    def _loader(self, dataset: Any, training: bool) -> Any:
        place = self.team.place
        if place.data_size == 1 or not self._dispatches:
            return super()._loader(dataset, training)
        ranks = range(place.data_size) if self.team.is_first else [place.data_rank]
        options = (dataset, self.args, self.model, self.data_collator, self.processing_class, self.device, training)
        return DispatchedLoader([build_loader(*options, rank, place.data_size) for rank in ranks], self.team.is_first, place.data_size)
