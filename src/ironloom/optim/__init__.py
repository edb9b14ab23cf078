"""Optimizers, parameter groups and learning-rate schedules."""

from ironloom.optim.adamw import AdamW
from ironloom.optim.optimizers import adamw
from ironloom.optim.parameters import NamedParameters
from ironloom.optim.schedules import schedule_by_name, warmup_anneal

__all__ = ["AdamW", "NamedParameters", "adamw", "schedule_by_name", "warmup_anneal"]
