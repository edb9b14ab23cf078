"""Losses as (sum, weight)."""

from ironloom.objectives.adapters import FunctionLoss, MethodLoss, ModelLoss
from ironloom.objectives.base import IGNORE_INDEX, Objective, Reported, ReportingObjective, logits_of
from ironloom.objectives.cross_entropy import CrossEntropy
from ironloom.objectives.dpo import DPO, PreferenceLoss, answers_of
from ironloom.objectives.select import choose_objective

__all__ = [
    "DPO",
    "IGNORE_INDEX",
    "CrossEntropy",
    "FunctionLoss",
    "MethodLoss",
    "ModelLoss",
    "Objective",
    "PreferenceLoss",
    "Reported",
    "ReportingObjective",
    "answers_of",
    "choose_objective",
    "logits_of",
]
