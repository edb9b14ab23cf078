"""A whole run in code. What is left out is as in the quickstart: its data, its model, its optimizer."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from pydantic import FiniteFloat, InstanceOf

from ironloom.errors import Problem
from ironloom.settings.base import setting
from ironloom.settings.data import DataGroup
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.checkpoint import CheckpointParameters
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.dream.tracking import LoggingParameters
from ironloom.settings.dream.training import TrainingParameters
from ironloom.settings.model import ModelConfig

Factory = Callable[..., Any]


@dataclass(kw_only=True)
class BaseTrainerConfig(BaseConfig):
    """Names of a run, its devices and loop, and what is trained on what.

    Models, optimizers, schedules and datasets are factories: a class, a function at the top level of a
    module, or a ``functools.partial`` of one.
    """

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {"scheduler": "lr_scheduler", "tokenizer": "processing_class"}

    project: str = setting("", "Project; a part of the run's folder.")
    group: str = setting("", "Group of related experiments; a part of the run's folder.")
    experiment: str = setting("", "Name of this experiment; a part of the run's folder.")
    seed: Annotated[int, Ge(0)] = setting(42, "Seed of everything random.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting("INFO", "Least level of messages shown.")

    device_parameters: InstanceOf[DeviceParameters] = setting(default_factory=DeviceParameters, doc="Devices.")
    training_parameters: InstanceOf[TrainingParameters] = setting(default_factory=TrainingParameters, doc="The training loop.")
    checkpoint_parameters: InstanceOf[CheckpointParameters] = setting(default_factory=CheckpointParameters, doc="Checkpoints.")
    logging_parameters: InstanceOf[LoggingParameters] | None = setting(None, "The tracker; null: none.")
    callbacks: Sequence[Any] | None = setting(None, "Callbacks; None among them is left out.")

    model: InstanceOf[ModelConfig] | Factory | None = setting(None, "Shape of the built-in decoder, or a factory without arguments.")
    init_std: Annotated[FiniteFloat, Ge(0)] = setting(0.02, "Standard deviation of the built-in decoder's initial weights.")
    xavier_init: bool = setting(False, "Scale its initial weights by their width instead (Glorot and Bengio, 2010).")
    optimizer: Factory | None = setting(None, "Called with the named parameters; null: AdamW from training_parameters.")
    lr_scheduler: Factory | None = setting(None, "Called with the optimizer; null: from training_parameters.")

    data: InstanceOf[DataGroup] | None = setting(None, "Text to train on; null: the language reference of Python.")
    train_dataset: Factory | None = setting(None, "Instead of data: makes the training dataset.")
    eval_dataset: Factory | None = setting(None, "Makes the validation dataset.")
    data_collator: Factory | None = setting(None, "Makes a batch of a list of samples.")
    processing_class: Factory | None = setting(None, "Makes the tokenizer or processor that is saved with the model.")

    trainer_args: dict[str, Any] = setting(default_factory=dict, doc="Further fields of TrainingArguments.")

    def problems(self) -> Iterable[Problem]:
        """What does not fit together."""
        for name in ("project", "group", "experiment"):
            path = pathlib.PurePath(getattr(self, name))
            if path.is_absolute() or ".." in path.parts:
                yield Problem(f"{str(path)!r} leaves the folder of all runs", name, hint="a name, or names with / between")
        yield from self._batch_problems()
        if self.train_dataset is None:
            for name in ("eval_dataset", "data_collator", "processing_class"):
                if getattr(self, name) is not None:
                    yield Problem("belongs to a train_dataset of its own", name, hint="give train_dataset, or leave it out")
        elif self.data is not None:
            yield Problem("data and train_dataset exclude each other", "train_dataset", hint="keep one of them")
        elif not callable(self.model):
            yield Problem("the built-in decoder takes its vocabulary from data", "train_dataset", hint="give a model of its own, or data")

    def _batch_problems(self) -> Iterable[Problem]:
        ranks = self.device_parameters.data_parallel()
        for name in ("train_batch_size", "val_batch_size"):
            size = getattr(self.training_parameters, name)
            if ranks is not None and size is not None and size % ranks:
                message = f"batch size {size} must be divisible by the data-parallel size {ranks}"
                near = " and ".join(str(each) for each in (size // ranks * ranks, (size // ranks + 1) * ranks) if each)
                yield Problem(message, f"training_parameters.{name}", hint=f"the nearest that are: {near}")


@dataclass(kw_only=True)
class DreamTrainerConfig(BaseTrainerConfig):
    """A run, under the name that the specification gives it."""
