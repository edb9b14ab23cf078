"""Typed settings, free of torch."""

from ironloom.settings.accel import AccelTrainingArguments
from ironloom.settings.base import Settings, setting
from ironloom.settings.model import ModelConfig, PositionalEmbedding
from ironloom.settings.training import TrainingArguments

__all__ = ["AccelTrainingArguments", "ModelConfig", "PositionalEmbedding", "Settings", "TrainingArguments", "setting"]
