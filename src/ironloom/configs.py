"""What configurations in Python are written with."""

from ironloom.settings.data import DataGroup as DataParameters
from ironloom.settings.dream import (
    BaseConfig,
    BaseTrainerConfig,
    CheckpointParameters,
    Comm,
    DeviceParameters,
    DreamTrainerConfig,
    LoggingParameters,
    TrainingParameters,
    WandbLoggingParameters,
    WandBParameters,
)
from ironloom.settings.lora import Lora
from ironloom.settings.model import ModelConfig, PositionalEmbedding
from ironloom.settings.training import TrainingArguments

__all__ = [
    "BaseConfig",
    "BaseTrainerConfig",
    "CheckpointParameters",
    "Comm",
    "DataParameters",
    "DeviceParameters",
    "DreamTrainerConfig",
    "LoggingParameters",
    "Lora",
    "ModelConfig",
    "PositionalEmbedding",
    "TrainingArguments",
    "TrainingParameters",
    "WandBParameters",
    "WandbLoggingParameters",
]
