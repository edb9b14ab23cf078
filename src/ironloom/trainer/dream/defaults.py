"""What a configuration in code says of a run, as objects: arguments, callbacks, and factories of everything that a hook may replace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ironloom.callbacks import SanityCheck
from ironloom.config import build
from ironloom.config.code.live import Settled
from ironloom.config.graph import Node
from ironloom.errors import ConfigError, Problem
from ironloom.models.build import builds_decoder
from ironloom.settings.dream import BaseTrainerConfig
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.plan import StepPlan

_STEPS = "ironloom.data:steps_of_epochs"
_PARTS = ("train_dataset", "eval_dataset", "data_collator", "processing_class")
_SCHEDULE = ("lr_scheduler", "warmup_steps", "min_lr")


class DataParts(NamedTuple):
    """The data that a configuration names."""

    train: Any
    evaluation: Any
    collate: Any
    processing_class: Any


class Defaults:
    """A configuration's own answer to every hook. Data is read and models are made when they are asked for.

    Args:
        config: The configuration.
        args: Training arguments that take the place of those it amounts to.
        epochs: Of these arguments, those that are so many epochs of the data.

    Raises:
        ConfigError: With everything that is wrong with it.
    """

    def __init__(self, config: BaseTrainerConfig, args: TrainingArguments | None = None, epochs: Mapping[str, float] | None = None):
        settled = Settled(config)
        self._given = settled.given
        root = settled.graph.root
        # Steps that follow from the length of the data are known only when a hook has given the data.
        settled_epochs = _taken(root["trainer_args"].kwargs)
        self._epochs = settled_epochs if args is None else dict(epochs or {})
        schedule = root["lr_scheduler"]
        self._schedule_is_open = isinstance(schedule, Node) and bool(_taken(schedule.kwargs))
        main = root["main"].kwargs
        root["callbacks"] = main["callbacks"]
        root["parts"] = Node("ironloom.config.targets:named_list", "partial", tuple(main.get(name) for name in _PARTS))
        names = ["trainer_args", "callbacks", "model", "optimizer", "lr_scheduler", "parts"]
        made = build(settled.graph, names)
        self.args: TrainingArguments = args or made["trainer_args"]
        twice = [name for name in self._epochs if getattr(self.args, name) != getattr(TrainingArguments(), name)]
        if twice:
            raise ConfigError(f"{', '.join(twice)}: given in args as steps and in epochs as epochs of the data; leave one out")
        # Its look at validation knows no step but that of a language model; the trainer has its own.
        self.callbacks: list[Any] = [each for each in made["callbacks"] if type(each) is not SanityCheck]
        self._new_model = made["model"]
        self.new_optimizer = made["optimizer"]
        self._new_scheduler = made["lr_scheduler"]
        self._new_parts = made["parts"]
        self._parts: DataParts | None = None

    def parts(self) -> DataParts:
        """The data; read once."""
        if self._parts is None:
            self._parts = DataParts(*self._new_parts())
        return self._parts

    def new_model(self, draws_parts: bool = False) -> nn.Module:
        """The model of the configuration.

        Args:
            draws_parts: Leave the built-in decoder without weights: each process will draw its part.
        """
        model: nn.Module = self._new_model(on_meta=True) if draws_parts and builds_decoder(self._new_model) else self._new_model()
        return model

    def new_scheduler(self, optimizer: Any, plan: StepPlan) -> Any:
        """The schedule of an optimizer."""
        return self._new_scheduler(optimizer, total_steps=plan.max_steps) if self._schedule_is_open else self._new_scheduler(optimizer)

    @property
    def has_scheduler(self) -> bool:
        """Whether the configuration has a schedule of its own, whatever the optimizer."""
        return self._given.value("lr_scheduler") is not None

    def settle(self, plan: StepPlan) -> None:
        """Put steps in the place of epochs in the arguments."""
        for name, epochs in self._epochs.items():
            if plan.steps_per_epoch is None:
                raise ConfigError(f"{name} are {epochs:g} epochs, but the training data has no length: set train_steps_per_epoch")
            setattr(self.args, name, max(1, round(epochs * plan.steps_per_epoch)))

    def without_schedule(self) -> Iterable[Problem]:
        """What nothing reads where an optimizer is the user's own and has no schedule."""
        for name in _SCHEDULE:
            path = f"training_parameters.{name}"
            if self._given.is_given(path):
                yield self._given.problem(path, "has no effect on an optimizer of configure_optimizers", "write configure_schedulers")

    def without_validation(self) -> Iterable[Problem]:
        """What nothing reads where there is no data to validate on."""
        for name in ("val_frequency", "val_every_n_steps", "num_sanity_val_steps", "val_batch_size", "val_steps_per_epoch"):
            path = f"training_parameters.{name}"
            if self._given.value(path) and self._given.is_given(path):
                yield self._given.problem(path, "has no effect: there is no data to validate on", "let configure_dataloaders return some")


def _taken(kwargs: dict[str, Any]) -> dict[str, float]:
    """The arguments that are epochs of the data, taken out."""
    epochs = {name: value.kwargs["epochs"] for name, value in kwargs.items() if isinstance(value, Node) and value.target == _STEPS}
    for name in epochs:
        del kwargs[name]
    return epochs
