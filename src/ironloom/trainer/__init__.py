"""The trainers, their results, and the one loop behind them."""

from typing import TYPE_CHECKING, Any

from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.accel_trainer import AccelTrainer
from ironloom.trainer.base_trainer import BaseTrainer
from ironloom.trainer.pipeline_trainer import PipelineTrainer
from ironloom.trainer.trainer import Trainer
from ironloom.trainer.types import AbstractBaseTrainer, EvalPrediction, ExtensibleTrainer, PredictionOutput, TrainOutput

if TYPE_CHECKING:
    from ironloom.trainer.dream import DreamTrainer

__all__ = [
    "AbstractBaseTrainer",
    "AccelTrainer",
    "BaseTrainer",
    "DreamTrainer",
    "EvalPrediction",
    "ExtensibleTrainer",
    "PipelineTrainer",
    "PipelineTrainingArguments",
    "PredictionOutput",
    "TrainOutput",
    "Trainer",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
]


def __getattr__(name: str) -> Any:
    """The trainer that reads configurations in code; the others do without that."""
    if name == "DreamTrainer":
        from ironloom.trainer.dream import DreamTrainer

        return DreamTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
