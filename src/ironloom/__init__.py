"""Ironloom trains language models. Importing it costs nothing; names are loaded when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ironloom.callbacks import ProgressCallback, TrainerCallback
    from ironloom.configs import (
        BaseConfig,
        BaseTrainerConfig,
        CheckpointParameters,
        DeviceParameters,
        DreamTrainerConfig,
        TrainingParameters,
        WandBParameters,
    )
    from ironloom.errors import CheckpointError, ConfigError, DataError, Interrupted, IronloomError, RankError, ResourceError
    from ironloom.models import Decoder
    from ironloom.parallel import DistributedEnvironment
    from ironloom.settings import AccelTrainingArguments, ModelConfig
    from ironloom.trainer import (
        AbstractBaseTrainer,
        AccelTrainer,
        BaseTrainer,
        EvalPrediction,
        ExtensibleTrainer,
        PipelineTrainer,
        PipelineTrainingArguments,
        PredictionOutput,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
        TrainOutput,
    )
    from ironloom.trainer.dream import DreamTrainer

_HOME = {
    "AbstractBaseTrainer": "ironloom.trainer",
    "AccelTrainer": "ironloom.trainer",
    "AccelTrainingArguments": "ironloom.settings",
    "BaseConfig": "ironloom.configs",
    "BaseTrainer": "ironloom.trainer",
    "BaseTrainerConfig": "ironloom.configs",
    "CheckpointError": "ironloom.errors",
    "CheckpointParameters": "ironloom.configs",
    "ConfigError": "ironloom.errors",
    "DataError": "ironloom.errors",
    "Decoder": "ironloom.models",
    "DeviceParameters": "ironloom.configs",
    "DistributedEnvironment": "ironloom.parallel",
    "DreamTrainer": "ironloom.trainer.dream",
    "DreamTrainerConfig": "ironloom.configs",
    "EvalPrediction": "ironloom.trainer",
    "ExtensibleTrainer": "ironloom.trainer",
    "Interrupted": "ironloom.errors",
    "IronloomError": "ironloom.errors",
    "ModelConfig": "ironloom.settings",
    "PipelineTrainer": "ironloom.trainer",
    "PipelineTrainingArguments": "ironloom.settings",
    "PredictionOutput": "ironloom.trainer",
    "ProgressCallback": "ironloom.callbacks",
    "RankError": "ironloom.errors",
    "ResourceError": "ironloom.errors",
    "TrainOutput": "ironloom.trainer",
    "Trainer": "ironloom.trainer",
    "TrainerCallback": "ironloom.callbacks",
    "TrainerControl": "ironloom.trainer",
    "TrainerState": "ironloom.trainer",
    "TrainingArguments": "ironloom.settings",
    "TrainingParameters": "ironloom.configs",
    "WandBParameters": "ironloom.configs",
}

__all__ = [
    "AbstractBaseTrainer",
    "AccelTrainer",
    "AccelTrainingArguments",
    "BaseConfig",
    "BaseTrainer",
    "BaseTrainerConfig",
    "CheckpointError",
    "CheckpointParameters",
    "ConfigError",
    "DataError",
    "Decoder",
    "DeviceParameters",
    "DistributedEnvironment",
    "DreamTrainer",
    "DreamTrainerConfig",
    "EvalPrediction",
    "ExtensibleTrainer",
    "Interrupted",
    "IronloomError",
    "ModelConfig",
    "PipelineTrainer",
    "PipelineTrainingArguments",
    "PredictionOutput",
    "ProgressCallback",
    "RankError",
    "ResourceError",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "TrainingParameters",
    "WandBParameters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ironloom' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
