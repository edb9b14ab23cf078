"""The trainers, their results, and the one loop behind them."""

from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.base_trainer import BaseTrainer
from ironloom.trainer.dream import DreamTrainer
from ironloom.trainer.trainer import Trainer
from ironloom.trainer.types import AbstractBaseTrainer, EvalPrediction, ExtensibleTrainer, PredictionOutput, TrainOutput

__all__ = [
    "AbstractBaseTrainer",
    "BaseTrainer",
    "DreamTrainer",
    "EvalPrediction",
    "ExtensibleTrainer",
    "PredictionOutput",
    "TrainOutput",
    "Trainer",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
]
