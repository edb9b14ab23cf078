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
    from ironloom.settings import ModelConfig
    from ironloom.trainer import (
        AbstractBaseTrainer,
        BaseTrainer,
        DreamTrainer,
        EvalPrediction,
        ExtensibleTrainer,
        PredictionOutput,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
        TrainOutput,
    )

_HOME = {
    "AbstractBaseTrainer": "ironloom.trainer",
    "BaseConfig": "ironloom.configs",
    "BaseTrainer": "ironloom.trainer",
    "BaseTrainerConfig": "ironloom.configs",
    "CheckpointError": "ironloom.errors",
    "CheckpointParameters": "ironloom.configs",
    "ConfigError": "ironloom.errors",
    "DataError": "ironloom.errors",
    "Decoder": "ironloom.models",
    "DeviceParameters": "ironloom.configs",
    "DreamTrainer": "ironloom.trainer",
    "DreamTrainerConfig": "ironloom.configs",
    "EvalPrediction": "ironloom.trainer",
    "ExtensibleTrainer": "ironloom.trainer",
    "Interrupted": "ironloom.errors",
    "IronloomError": "ironloom.errors",
    "ModelConfig": "ironloom.settings",
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
    "BaseConfig",
    "BaseTrainer",
    "BaseTrainerConfig",
    "CheckpointError",
    "CheckpointParameters",
    "ConfigError",
    "DataError",
    "Decoder",
    "DeviceParameters",
    "DreamTrainer",
    "DreamTrainerConfig",
    "EvalPrediction",
    "ExtensibleTrainer",
    "Interrupted",
    "IronloomError",
    "ModelConfig",
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
