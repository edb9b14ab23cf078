"""What a training step does itself instead of leaving it to the trainer: backward, and the update of an optimizer."""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer

from ironloom.errors import ConfigError, NonFiniteError
from ironloom.objectives.base import batch_size
from ironloom.trainer.diagnose import no_gradient
from ironloom.trainer.dream.group import parameters_of
from ironloom.trainer.dream.steps import StepEngine


def backward(engine: StepEngine, loss: torch.Tensor) -> None:
    """Propagate a loss of the running training step back, as its share of the whole optimizer step.

    Args:
        engine: Runs the step.
        loss: A mean over the samples of the batch.

    Raises:
        ConfigError: Outside of ``training_step``, and for a loss that has no gradient or that has one already.
    """
    window = engine.window
    if window is None or not torch.is_grad_enabled():
        raise ConfigError("backward() belongs into training_step; where that is to give the loss of validation too, write validation_step")
    if not loss.requires_grad:
        raise no_gradient()
    loss_sum = loss.float() * batch_size(engine.seen_batch or {})
    with torch.autocast(engine.device.type, enabled=False):
        engine.back(loss_sum)
    window.backward.append(loss_sum.detach().reshape(()))


def step(engine: StepEngine, optimizer: Optimizer) -> float:
    """Sum, clip, and step one optimizer now, and advance its schedule; the norm of its gradient before clipping.

    Raises:
        ConfigError: Outside of the last micro-batch of a training step.
        NonFiniteError: With policy ``stop``, if a loss or a gradient is not finite; nothing is stepped then.
    """
    window, trainer, scaler = engine.window, engine.trainer, engine.scaler
    if window is None:
        raise ConfigError("step() belongs into training_step")
    if not window.is_last:
        raise ConfigError("step() within an accumulation window: ask self.is_accumulating_gradients before")
    parameters = parameters_of(optimizer)
    losses = sum(float(loss) for loss in window.backward) * window.share + window.loss
    (loss_sum,) = engine.united_gradients(parameters, [losses])
    if scaler is not None:
        scaler.unscale_(optimizer)
    with torch.autocast(engine.device.type, enabled=False):
        norm = engine.clip_now(parameters, trainer.args.max_grad_norm)
        # A loss scaler finds and skips overflowing gradients itself.
        is_finite = math.isfinite(loss_sum) and (math.isfinite(norm) or scaler is not None)
        if is_finite:
            trainer.tell_before_step()
            optimizer.step() if scaler is None else scaler.step(optimizer)
        elif trainer.args.nonfinite_policy == "stop":
            what = f"gradient norm is {norm}" if math.isfinite(loss_sum) else f"loss is {loss_sum}"
            raise NonFiniteError(
                f"the {what} in step {trainer.state.global_step + 1}: this optimizer was not stepped; "
                "lower the learning rate, look at these samples, or set error_if_nonfinite to False to skip such steps"
            )
    window.stepped.append(norm if is_finite else math.nan)
    if is_finite and math.isfinite(norm):
        trainer.tell_step(optimizer)
    optimizer.zero_grad()
    return norm
