"""Typed settings, free of torch."""

from ironloom.settings.accel import AccelTrainingArguments
from ironloom.settings.base import Settings, setting
from ironloom.settings.dream.device import Comm, DeviceParameters
from ironloom.settings.lora import Lora
from ironloom.settings.model import ModelConfig, PositionalEmbedding
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.settings.training import TrainingArguments

__all__ = [
    "AccelTrainingArguments",
    "Comm",
    "DeviceParameters",
    "Lora",
    "ModelConfig",
    "PipelineTrainingArguments",
    "PositionalEmbedding",
    "Settings",
    "TrainingArguments",
    "setting",
]
