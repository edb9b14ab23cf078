"""Optimizers, parameter groups and learning-rate schedules."""

from ironloom.optim.adafactor import Adafactor
from ironloom.optim.adamw import Adam, AdamW
from ironloom.optim.infinite import InfiniteLRScheduler
from ironloom.optim.lion import Lion
from ironloom.optim.muon import Muon
from ironloom.optim.optimizers import adafactor, adam, adamw, adamw_8bit, lion, muon, sgd
from ironloom.optim.parameters import NamedParameters
from ironloom.optim.schedules import schedule_by_name, warmup_anneal
from ironloom.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "InfiniteLRScheduler",
    "Lion",
    "Muon",
    "NamedParameters",
    "adafactor",
    "adam",
    "adamw",
    "adamw_8bit",
    "lion",
    "muon",
    "schedule_by_name",
    "sgd",
    "warmup_anneal",
]
