"""Optimizers, parameter groups and learning-rate schedules."""

from ironloom.optim.adamw import AdamW
from ironloom.optim.infinite import InfiniteLRScheduler
from ironloom.optim.optimizers import adamw
from ironloom.optim.parameters import NamedParameters
from ironloom.optim.schedules import schedule_by_name, warmup_anneal

__all__ = ["AdamW", "InfiniteLRScheduler", "NamedParameters", "adamw", "schedule_by_name", "warmup_anneal"]
