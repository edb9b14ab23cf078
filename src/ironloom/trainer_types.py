"""The name under which the specification has :mod:`ironloom.trainer.types`."""

from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.types import AbstractBaseTrainer, ExtensibleTrainer, TrainOutput

__all__ = ["AbstractBaseTrainer", "ExtensibleTrainer", "TrainOutput", "TrainerControl", "TrainerState", "TrainingArguments"]
