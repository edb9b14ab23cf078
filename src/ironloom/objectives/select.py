"""Which objective fits a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from ironloom.objectives.adapters import FunctionLoss, MethodLoss, ModelLoss
from ironloom.objectives.base import Objective
from ironloom.objectives.cross_entropy import CrossEntropy

#: Tasks of transformers (``model.loss_type``) whose loss is a plain cross entropy, and whether it shifts.
_CROSS_ENTROPY_TASKS = {"ForCausalLM": True, "ForMaskedLM": False, "ForTokenClassification": False}


def choose_objective(
    model: nn.Module,
    compute_loss_func: Callable[..., Any] | None = None,
    label_names: list[str] | None = None,
    compute_loss: Callable[..., Any] | None = None,
) -> Objective:
    """The objective of a model: the user's method or function, our cross entropy where it applies, else the model's own loss.

    Ours applies to causal and masked language models, token classification and encoder-decoders of
    ``transformers``, and to any module whose forward does not take the labels.
    """
    labels_key = label_names[0] if label_names else "labels"
    task, encoder_decoder = _task(model)
    shift = not encoder_decoder and task not in ("ForMaskedLM", "ForTokenClassification")
    if compute_loss is not None:
        return MethodLoss(compute_loss, labels_key, shift)
    if compute_loss_func is not None:
        return FunctionLoss(compute_loss_func, labels_key, shift)
    if encoder_decoder:
        make = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        return CrossEntropy(False, labels_key, make) if make else ModelLoss(labels_key, shift)
    if task in _CROSS_ENTROPY_TASKS:
        return CrossEntropy(_CROSS_ENTROPY_TASKS[task], labels_key)
    if task is None and labels_key not in inspect.signature(model.forward).parameters:
        return CrossEntropy(True, labels_key)
    return ModelLoss(labels_key, shift)


def _task(model: nn.Module) -> tuple[str | None, bool]:
    """The task of a ``transformers`` model (also inside an adapter) and whether it is an encoder-decoder.

    The task of any other module is None.
    """
    config = getattr(model, "config", None)
    if not getattr(config, "model_type", None) or not any(
        base.__module__.startswith(("transformers.", "peft.")) for base in type(model).__mro__
    ):
        return None, False
    task = getattr(model, "loss_type", None)
    if task is None and type(model).__name__.endswith("LMHeadModel"):
        task = "ForCausalLM"
    return task or "unknown", bool(getattr(config, "is_encoder_decoder", False))
