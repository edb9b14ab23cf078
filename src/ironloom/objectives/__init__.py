"""Losses as (sum, weight)."""

from ironloom.objectives.adapters import FunctionLoss, MethodLoss, ModelLoss
from ironloom.objectives.base import IGNORE_INDEX, Objective, logits_of
from ironloom.objectives.cross_entropy import CrossEntropy
from ironloom.objectives.select import choose_objective

__all__ = [
    "IGNORE_INDEX",
    "CrossEntropy",
    "FunctionLoss",
    "MethodLoss",
    "ModelLoss",
    "Objective",
    "choose_objective",
    "logits_of",
]
