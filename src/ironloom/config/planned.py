"""Targets that configurations may name and that are still to come: what each of them is. ``check`` refuses them by name."""

from __future__ import annotations

_PIPELINE = "training a model in stages on several devices"

PLANNED = {
    "ironloom.trainer:PipelineTrainer": _PIPELINE,
    "ironloom.settings:PipelineTrainingArguments": _PIPELINE,
}
