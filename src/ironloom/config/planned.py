"""Targets that configurations may name and that are still to come: what each of them is. ``check`` refuses them by name."""

from __future__ import annotations

_ACCELERATE = "training on several devices with Accelerate"

PLANNED = {
    "ironloom.trainer:AccelTrainer": _ACCELERATE,
    "ironloom.settings:AccelTrainingArguments": _ACCELERATE,
}
