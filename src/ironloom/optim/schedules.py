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
    "1-sqrt": lambda share: 1.0 - math.sqrt(share),
    "constant": lambda share: 1.0,
}
INVERSE_SQRT_SCALE = 10_000  # of steps, without a warm-up; with one its length, as in transformers


def warmup_anneal(
    optimizer: Optimizer,
    kind: str = "cosine",
    warmup_steps: int = 0,
    annealing_steps: int = 0,
    min_lr: float = 0.0,
    total_steps: int = 0,
    power: float = 1.0,
    decay_type: str = "linear",
) -> LRScheduler:
    """Rise linearly over ``warmup_steps``, then fall to ``min_lr`` over ``annealing_steps``, then stay.

    Step ``s`` of the warm-up (from 0) has the rate ``base * (s + 1) / warmup_steps``, so that the
    first step already trains and the last of the warm-up has the full rate. After it, with ``x`` the share of the
    way down and ``n`` the steps since its end:

    ======================= ==================================================================
    ``cosine``              ``min_lr + (base - min_lr) * (1 + cos(pi * x)) / 2``
    ``linear``              ``min_lr + (base - min_lr) * (1 - x)``
    ``polynomial``          ``min_lr + (base - min_lr) * (1 - x) ** power``
    ``constant``            ``base``
    ``inverse_sqrt``        ``max(min_lr, base * sqrt(w / (n + w)))``, w: the warm-up or 10,000
    ``warmup_stable_decay`` ``base``; the last ``annealing_steps`` of ``total_steps`` fall
                            as ``decay_type`` says: ``linear``, ``cosine`` or ``1-sqrt``
    ======================= ==================================================================

    Args:
        optimizer: Its groups' rates are the top of the schedule.
        kind: One of these.
        warmup_steps: Steps of the rise.
        annealing_steps: Steps of the fall; 0: whatever ``total_steps`` leaves.
        min_lr: Rate at the end, absolute, for every group.
        total_steps: Optimizer steps of the run.
        power: Of ``polynomial``.
        decay_type: Of ``warmup_stable_decay`` (Hagele et al. 2024, arXiv:2405.18392, compare the three).

    Raises:
        ConfigError: For a kind that there is not, or a fall that does not fit into the run.
    """
    shapes = {**SHAPES, "polynomial": lambda share: (1.0 - share) ** power, "warmup_stable_decay": SHAPES.get(decay_type)}
    if kind != "inverse_sqrt" and shapes.get(kind) is None:
        raise ConfigError(
            f"there is no schedule {kind!r} with decay_type {decay_type!r}; schedules: {', '.join([*shapes, 'inverse_sqrt'])}"
        )
    start = warmup_steps
    steps_down = annealing_steps or max(1, total_steps - warmup_steps)
    if kind == "warmup_stable_decay":
        start = total_steps - steps_down
        if not annealing_steps or start < warmup_steps:
            raise ConfigError(f"a fall of {annealing_steps} steps after a warm-up of {warmup_steps} does not fit into {total_steps} steps")
    shape = shapes.get(kind)
    scale = warmup_steps or INVERSE_SQRT_SCALE

    def factor(step: int, floor: float) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if kind == "constant":
            return 1.0
        if shape is None:
            return max(floor, math.sqrt(scale / (step - warmup_steps + scale)))
        share = min(1.0, max(0, step - start) / steps_down)
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
