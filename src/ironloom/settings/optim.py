"""The group ``optim`` of a grouped configuration: which optimizer and schedule there are, and which keys each of them has.

A key that the chosen optimizer or schedule has no use for is refused, unless it is at its default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import Settings, setting

Size = Annotated[int, Ge(0)]
Rate = Annotated[FiniteFloat, Ge(0)]
Positive = Annotated[FiniteFloat, Gt(0)]
Unit = Annotated[FiniteFloat, Ge(0), Lt(1)]

_ADAM = ("adam", "adamw", "adam_l2", "adamw_8bit")
#: Optimizers that have a use for a key.
OPTIMIZERS_WITH = {
    "adam_beta1": (*_ADAM, "lion", "muon"),
    "adam_beta2": (*_ADAM, "lion", "muon"),
    "adam_eps": (*_ADAM, "muon"),
    "momentum": ("sgd", "muon"),
}
#: What the momentum is where the key says nothing.
MOMENTUM = {"sgd": 0.9, "muon": 0.95}
#: Schedules that have a use for a key.
SCHEDULES_WITH = {
    "annealing_steps": ("cosine", "linear", "polynomial", "warmup_stable_decay"),
    "min_lr": ("cosine", "linear", "polynomial", "warmup_stable_decay", "inverse_sqrt", "infinite"),
    "lr_power": ("polynomial",),
    "decay_type": ("warmup_stable_decay",),
    "cooldown_steps": ("infinite",),
    "constant_lr": ("infinite",),
    "checkpoint_step": ("infinite",),
    "tau": ("infinite",),
}


@dataclass
class OptimGroup(Settings):
    """Optimizer and schedule."""

    optimizer: Literal["adam", "adamw", "adam_l2", "adamw_8bit", "sgd", "adafactor", "lion", "muon"] = setting(
        "adam", "adam and adamw: AdamW, its weight decay apart from the gradient; adam_l2: in the gradient. See docs/optimizers.md."
    )
    lr_scheduler: Literal["cosine", "linear", "constant", "polynomial", "inverse_sqrt", "warmup_stable_decay", "infinite"] = setting(
        "cosine", "How the learning rate falls."
    )
    max_lr: Positive = setting(5e-4, "Learning rate at the end of the warm-up.")
    min_lr: Rate = setting(0.0, "Learning rate at the end of the fall, or the least there is.")
    warmup_steps: Size = setting(0, "Steps over which the learning rate rises.")
    annealing_steps: Size = setting(
        0, "Steps over which it falls; 0: all that the warm-up leaves. With warmup_stable_decay the last steps, and needed."
    )
    lr_power: Positive = setting(1.0, "Power of the fall; only polynomial.")
    decay_type: Literal["linear", "cosine", "1-sqrt"] = setting("linear", "Shape of the fall at the end; only warmup_stable_decay.")
    cooldown_steps: Size = setting(0, "Steps from max_lr down to constant_lr; only infinite.")
    constant_lr: Rate = setting(3.75e-5, "Learning rate after cooldown_steps; only infinite.")
    checkpoint_step: Annotated[int, Ge(-1)] = setting(-1, "Step from which it falls to min_lr, -1: never; only infinite.")
    tau: Positive = setting(1e4, "Steps in which that fall leaves a share of 1/e; only infinite.")
    weight_decay: Rate = setting(0.01, "Weight decay of matrices; norms and biases have none.")
    no_decay_on_embedding: bool = setting(True, "Leave embeddings out of weight decay.")
    adam_beta1: Unit = setting(0.9, "Decay of the first moment; in lion the momentum's share of the update.")
    adam_beta2: Unit = setting(0.95, "Decay of the second moment; in lion that of the momentum.")
    adam_eps: Positive = setting(1e-8, "Added to the root of the second moment.")
    momentum: Unit | None = setting(None, "Momentum of sgd (null: 0.9) and of muon's matrices (null: 0.95).")
    clip_grad: Rate = setting(1.0, "Clip the gradient to this L2 norm; 0: never.")
    load_checkpoint_optim_state: bool = setting(True, "Take the optimizer's state from the checkpoint on resume.")
    load_checkpoint_lr_scheduler: bool = setting(True, "Take the scheduler's state from the checkpoint on resume.")

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        if self.min_lr > self.max_lr:
            yield Problem(f"{self.min_lr} is more than max_lr {self.max_lr}", path="min_lr")
        set_keys = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for key in set_keys:
            for chosen, table in ((self.optimizer, OPTIMIZERS_WITH), (self.lr_scheduler, SCHEDULES_WITH)):
                if chosen not in table.get(key, (chosen,)):
                    yield Problem(f"has no effect with {chosen}", path=key, hint=f"{', '.join(table[key])} would use it; else leave it out")
        if self.lr_scheduler == "warmup_stable_decay" and not self.annealing_steps:
            message = "warmup_stable_decay falls at the end, over as many steps as this says"
            yield Problem(message, path="annealing_steps", hint="for example a tenth of operation.train_steps")
        if self.lr_scheduler == "infinite":
            yield from self._infinite(set_keys)

    def _infinite(self, set_keys: list[str]) -> Iterable[Problem]:
        if "constant_lr" in set_keys and not self.cooldown_steps:
            yield Problem("has no effect without cooldown_steps", path="constant_lr", hint="without, the rate stays at max_lr")
        if self.cooldown_steps and self.constant_lr > self.max_lr:
            yield Problem(f"{self.constant_lr} is more than max_lr {self.max_lr}", path="constant_lr")
        for key in ("min_lr", "tau"):
            if key in set_keys and self.checkpoint_step < 0:
                yield Problem("has no effect without checkpoint_step", path=key, hint="without, the rate never falls to min_lr")
        end = self.warmup_steps + self.cooldown_steps
        if 0 <= self.checkpoint_step < end:
            yield Problem(f"{self.checkpoint_step} is before the end of the cool-down at step {end}", path="checkpoint_step")
