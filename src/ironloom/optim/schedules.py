"""Learning-rate schedules as factors of the base rate, step by step.

A factor is a function of the number of optimizer steps done; the first step uses ``factor(0)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ironloom.errors import ConfigError

Shape = Callable[[float], float]

#: What is left of the height at a share of the way down, 0 to 1.
SHAPES: dict[str, Shape] = {
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    "constant": lambda share: 1.0,
}


def warmup_anneal(
    optimizer: Optimizer,
    kind: str = "cosine",
    warmup_steps: int = 0,
    annealing_steps: int = 0,
    min_lr: float = 0.0,
    total_steps: int = 0,
) -> LRScheduler:
    """Rise linearly over ``warmup_steps``, then fall to ``min_lr`` over ``annealing_steps``, then stay.

    Step ``s`` of the warm-up (from 0) has the rate ``base * (s + 1) / warmup_steps``, so that the
    first step already trains and the last of the warm-up has the full rate.

    Args:
        optimizer: Its groups' rates are the top of the schedule.
        kind: ``cosine``, ``linear`` or ``constant`` (never falls).
        warmup_steps: Steps of the rise.
        annealing_steps: Steps of the fall; 0: whatever ``total_steps`` leaves.
        min_lr: Rate at the end, absolute, for every group.
        total_steps: Optimizer steps of the run.
    """
    shape = SHAPES[kind]
    steps_down = annealing_steps or max(1, total_steps - warmup_steps)

    def factor(step: int, floor: float) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if kind == "constant":
            return 1.0
        share = min(1.0, (step - warmup_steps) / steps_down)
        return floor + (1.0 - floor) * shape(share)

    floors = [min_lr / group["lr"] if group["lr"] else 0.0 for group in optimizer.param_groups]
    return LambdaLR(optimizer, [partial(factor, floor=floor) for floor in floors])


def schedule_by_name(
    name: str, optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, kwargs: dict[str, Any]
) -> LRScheduler:
    """The schedule that ``transformers`` knows by ``name``.

    Linear, cosine and constant ones without further arguments are made here by the same formulas,
    because importing transformers for them would cost seconds at every start.

    Raises:
        ConfigError: For a name or arguments that transformers does not know.
    """
    short = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
    if name in short and not kwargs:
        warmup = 0 if name == "constant" else num_warmup_steps
        return LambdaLR(optimizer, partial(_rise_and_fall, warmup=warmup, total=num_training_steps, kind=short[name]))
    from transformers.optimization import get_scheduler

    try:
        scheduler: LRScheduler = get_scheduler(name, optimizer, num_warmup_steps, num_training_steps, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lr_scheduler_type {name!r} cannot be made: {error}") from error
    return scheduler


def _rise_and_fall(step: int, warmup: int, total: int, kind: str) -> float:
    """transformers' formula: the rate of step ``s`` in the warm-up is ``s / warmup``, from zero."""
    if step < warmup:
        return step / max(1, warmup)
    if kind == "constant":
        return 1.0
    return max(0.0, SHAPES[kind]((step - warmup) / max(1, total - warmup)))
