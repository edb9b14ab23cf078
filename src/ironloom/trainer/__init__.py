"""The trainers, their results, and the one loop behind them."""

from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.accel_trainer import AccelTrainer
from ironloom.trainer.base_trainer import BaseTrainer
from ironloom.trainer.pipeline_trainer import PipelineTrainer
from ironloom.trainer.preference_trainer import PreferenceTrainer
from ironloom.trainer.trainer import Trainer
from ironloom.trainer.types import AbstractBaseTrainer, EvalPrediction, ExtensibleTrainer, PredictionOutput, TrainOutput

__all__ = [
    "AbstractBaseTrainer",
    "AccelTrainer",
    "BaseTrainer",
    "EvalPrediction",
    "ExtensibleTrainer",
    "PipelineTrainer",
    "PipelineTrainingArguments",
    "PredictionOutput",
    "PreferenceTrainer",
    "TrainOutput",
    "Trainer",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
]
