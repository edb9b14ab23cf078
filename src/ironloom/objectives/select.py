"""Which objective fits a model."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ironloom.objectives.adapters import FunctionLoss, MethodLoss, ModelLoss
from ironloom.objectives.base import Batch, Objective, logits_of, loss_of
from ironloom.objectives.cross_entropy import CrossEntropy
from ironloom.objectives.weighted import LOSS_WEIGHTS

#: Tasks of transformers (``model.loss_type``) whose loss is a plain cross entropy, and whether it shifts.
_CROSS_ENTROPY_TASKS = {"ForCausalLM": True, "ForMaskedLM": False, "ForTokenClassification": False}

#: How near a model's own loss must be to ours for both to be the same function, relative.
_SAME = 1e-5
_SAME_IN_HALF = 1e-2


def choose_objective(
    model: nn.Module,
    first_batch: Callable[[], Batch],
    compute_loss_func: Callable[..., Any] | None = None,
    label_names: list[str] | None = None,
    compute_loss: Callable[..., Any] | None = None,
) -> Objective:
    """The objective of a model: the user's method or function, our cross entropy where it applies, else the model's own loss.

    Ours applies to causal and masked language models, token classification and encoder-decoders of
    ``transformers``, to any module whose forward takes no labels, and to one whose own loss turns out
    to be the same cross entropy.

    Args:
        model: On its device.
        first_batch: Gives a batch on that device, to try the model on; called only if need be.
        compute_loss_func: The user's loss.
        label_names: Keys of a batch that hold labels; the first is meant.
        compute_loss: The method of a trainer's subclass.
    """
    labels_key = label_names[0] if label_names else "labels"
    task, encoder_decoder = _task(model)
    own = functools.partial(ModelLoss, takes_weights=LOSS_WEIGHTS in inspect.signature(model.forward).parameters)
    shift = not encoder_decoder and task not in ("ForMaskedLM", "ForTokenClassification")
    if compute_loss is not None:
        return MethodLoss(compute_loss, labels_key, shift)
    if compute_loss_func is not None:
        return FunctionLoss(compute_loss_func, labels_key, shift)
    if encoder_decoder:
        make = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        return CrossEntropy(False, labels_key, make) if make else own(labels_key, shift)
    if task in _CROSS_ENTROPY_TASKS:
        return CrossEntropy(_CROSS_ENTROPY_TASKS[task], labels_key, aux_coefficient=_aux_coefficient(model))
    if task is None:
        parameters = inspect.signature(model.forward).parameters
        if labels_key not in parameters:
            return CrossEntropy(True, labels_key)
        required = parameters[labels_key].default is inspect.Parameter.empty
        return _recognised(model, first_batch(), labels_key, required) or own(labels_key, shift)
    return own(labels_key, shift)


@torch.no_grad()
def _recognised(model: nn.Module, batch: Batch, labels_key: str, labels_required: bool) -> CrossEntropy | None:
    """The cross entropy that a module's own loss is on a batch; None if it is something else, or cannot be told.

    A fresh model may predict all tokens alike: then the loss with and without shift is the same number.
    """
    if not isinstance(batch, Mapping) or not batch:
        return None
    if LOSS_WEIGHTS not in inspect.signature(model.forward).parameters:
        # Neither loss is weighted; with weights, ours is the same function of each target.
        batch = {name: value for name, value in batch.items() if name != LOSS_WEIGHTS}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        outputs = model(**batch)
        if not labels_required:
            without = logits_of(model(**{name: value for name, value in batch.items() if name != labels_key}))
    finally:
        for module in training:
            module.training = True
    logits, labels = logits_of(outputs), batch.get(labels_key)
    if logits is None or not isinstance(labels, torch.Tensor) or labels.is_floating_point() or logits.ndim != labels.ndim + 1:
        return None
    # Without labels some modules predict the last token only, as for generation.
    keep = labels_required or without is None or not torch.equal(without, logits)
    shifts = (True, False) if labels.ndim > 1 else (False,)
    candidates = [CrossEntropy(shift, labels_key, keep_labels=keep) for shift in shifts]
    if _lossless(outputs):
        return candidates[0]
    own, tolerance = loss_of(outputs).item(), _SAME if logits.dtype is torch.float32 else _SAME_IN_HALF
    same = [ours for ours in candidates if _is_mean(ours, outputs, batch, own, tolerance)]
    return same[0] if len(same) == 1 else None


def _is_mean(objective: CrossEntropy, outputs: Any, batch: Batch, own: float, tolerance: float) -> bool:
    weight = objective.weight(batch)
    return weight > 0 and math.isclose(objective.loss_sum(outputs, batch, 1).item() / weight, own, rel_tol=tolerance)


def _lossless(outputs: Any) -> bool:
    """Whether there are logits but no loss in a model's outputs."""
    if isinstance(outputs, torch.Tensor):
        return True
    if isinstance(outputs, tuple):
        return not any(isinstance(item, torch.Tensor) and item.ndim == 0 for item in outputs[:2])
    loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
    return loss is None


def _aux_coefficient(model: nn.Module) -> float:
    """Weight of the load-balancing loss of a mixture of experts, if its configuration asks for one."""
    config = getattr(model, "config", None)
    return float(getattr(config, "router_aux_loss_coef", 0.0)) if getattr(config, "output_router_logits", False) else 0.0


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
