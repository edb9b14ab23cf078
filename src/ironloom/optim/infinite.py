"""A schedule without an end: warm-up, cool-down, a constant rate for as long as wanted, and annealing when it is time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ironloom.errors import ConfigError, Problem


class InfiniteLRScheduler(LRScheduler):
    """Learning rates for training of which nobody knows yet how long it will be (Ibrahim et al. 2024, arXiv:2403.08763).

    At step ``t`` (from 0), for a group with the rate ``base``::

        t < warmup_steps                    base * t / warmup_steps
        ... for cooldown_steps more         a half cosine from base to constant_lr
        then                                level: constant_lr, or base without a cool-down
        from checkpoint_step on, if >= 0    min_lr + (level - min_lr) * exp(-(t - checkpoint_step) / tau)

    What a checkpoint keeps is how far it is, not its shape: a run that is taken up with a
    ``checkpoint_step`` begins to anneal there.

    Args:
        optimizer: Its groups' rates are the top of the schedule.
        warmup_steps: Steps of the rise.
        cooldown_steps: Steps of the fall to ``constant_lr``; 0: the rate stays at the top.
        constant_lr: Rate of the plateau, absolute, for every group.
        min_lr: Rate that annealing tends to, likewise.
        tau: Steps in which annealing falls to a share of 1/e.
        checkpoint_step: Step at which annealing begins; -1: never.
        last_epoch: Step to begin at, less one; -1: at the start.

    Raises:
        ConfigError: For arguments that are out of range or do not fit each other.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        constant_lr: float = 3.75e-5,
        min_lr: float = 1e-8,
        tau: float = 1e4,
        checkpoint_step: int = -1,
        last_epoch: int = -1,
    ):
        problems = [
            Problem(f"expected at least 0, found {value}", path=name)
            for name, value in {
                "warmup_steps": warmup_steps,
                "cooldown_steps": cooldown_steps,
                "constant_lr": constant_lr,
                "min_lr": min_lr,
            }.items()
            if not value >= 0
        ]
        if not tau > 0:
            problems.append(Problem(f"expected more than 0, found {tau}", path="tau"))
        if 0 <= checkpoint_step < warmup_steps + cooldown_steps:
            end = warmup_steps + cooldown_steps
            problems.append(Problem(f"{checkpoint_step} is before the end of the cool-down at step {end}", path="checkpoint_step"))
        if problems:
            raise ConfigError(problems)
        self.warmup_steps, self.cooldown_steps = warmup_steps, cooldown_steps
        self.constant_lr, self.min_lr, self.tau = constant_lr, min_lr, tau
        self.checkpoint_step = checkpoint_step
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of the current step, one for each group."""
        return [self._rate(float(base), self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule is."""
        return {"last_epoch": self.last_epoch, "base_lrs": [float(base) for base in self.base_lrs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a schedule was, in the shape of this one."""
        super().load_state_dict(state_dict)
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()

    def _rate(self, base: float, step: int) -> float:
        cooled = step - self.warmup_steps
        if cooled < 0:
            return base * step / self.warmup_steps
        if cooled < self.cooldown_steps:
            share = 0.5 * (1.0 + math.cos(math.pi * cooled / self.cooldown_steps))
            return self.constant_lr + (base - self.constant_lr) * share
        level = self.constant_lr if self.cooldown_steps else base
        if 0 <= self.checkpoint_step <= step:
            return self.min_lr + (level - self.min_lr) * math.exp(-(step - self.checkpoint_step) / self.tau)
        return level
