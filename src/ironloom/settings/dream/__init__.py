"""Settings of configuration as code: what ``ironloom.configs`` offers."""

from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.checkpoint import CheckpointParameters
from ironloom.settings.dream.device import Comm, DeviceParameters
from ironloom.settings.dream.tracking import LoggingParameters, WandbLoggingParameters, WandBParameters
from ironloom.settings.dream.trainer import BaseTrainerConfig, DreamTrainerConfig
from ironloom.settings.dream.training import TrainingParameters

__all__ = [
    "BaseConfig",
    "BaseTrainerConfig",
    "CheckpointParameters",
    "Comm",
    "DeviceParameters",
    "DreamTrainerConfig",
    "LoggingParameters",
    "TrainingParameters",
    "WandBParameters",
    "WandbLoggingParameters",
]
