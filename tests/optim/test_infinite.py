"""The endless schedule: its rates by their formula, and what a checkpoint keeps of it."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ironloom.optim import InfiniteLRScheduler
from tiny import assert_same_weights, tiny_trainer, weights

BASE, CONSTANT, LEAST = 1.0, 0.1, 0.01


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (BASE,)])


def rates(scheduler: InfiniteLRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def formula(step: int, warmup: int, cooldown: int, checkpoint: int, tau: float) -> float:
    if step < warmup:
        return BASE * step / warmup
    if step < warmup + cooldown:
        return CONSTANT + (BASE - CONSTANT) / 2 * (1 + math.cos(math.pi * (step - warmup) / cooldown))
    level = CONSTANT if cooldown else BASE
    if checkpoint >= 0 and step >= checkpoint:
        return LEAST + (level - LEAST) * math.exp(-(step - checkpoint) / tau)
    return level


@pytest.mark.parametrize(("warmup", "cooldown", "checkpoint"), [(5, 8, 20), (5, 8, -1), (0, 0, -1), (3, 0, 3), (0, 4, 4), (0, 0, 7)])
def test_closed_form(warmup: int, cooldown: int, checkpoint: int) -> None:
    shape = {"warmup_steps": warmup, "cooldown_steps": cooldown, "checkpoint_step": checkpoint, "tau": 4.0}
    found = rates(InfiniteLRScheduler(optimizer(), constant_lr=CONSTANT, min_lr=LEAST, **shape), 40)
    assert found == pytest.approx([formula(step, warmup, cooldown, checkpoint, 4.0) for step in range(40)], rel=1e-12)


def test_annealing_starts_at_the_level_there_is() -> None:
    """Without a cool-down too: the rate never jumps."""
    found = rates(InfiniteLRScheduler(optimizer(), constant_lr=CONSTANT, min_lr=LEAST, tau=100.0, checkpoint_step=10), 20)
    assert found[9] == found[10] == BASE
    assert max(abs(one - other) for one, other in itertools.pairwise(found)) < 0.011


def test_every_group_has_its_own_top() -> None:
    groups = optimizer(1.0, 0.5)
    scheduler = InfiniteLRScheduler(groups, warmup_steps=4, cooldown_steps=2, constant_lr=CONSTANT)
    for _ in range(2):
        groups.step()
        scheduler.step()
    assert [group["lr"] for group in groups.param_groups] == pytest.approx([0.5, 0.25])
    for _ in range(10):
        groups.step()
        scheduler.step()
    assert [group["lr"] for group in groups.param_groups] == [CONSTANT, CONSTANT]


@pytest.mark.parametrize("at", [0, 3, 9, 25])
def test_taken_up_anywhere_it_goes_on_the_same(at: int) -> None:
    shape = {"warmup_steps": 5, "cooldown_steps": 8, "constant_lr": CONSTANT, "checkpoint_step": 20, "tau": 4.0}
    whole = rates(InfiniteLRScheduler(optimizer(), **shape), 40)
    first = InfiniteLRScheduler(optimizer(), **shape)
    rates(first, at)
    again = InfiniteLRScheduler(optimizer(), **shape)
    again.load_state_dict(first.state_dict())
    for group, rate in zip(again.optimizer.param_groups, again.get_last_lr(), strict=True):
        group["lr"] = rate
    assert rates(again, 40 - at) == whole[at:]


def test_annealing_can_be_decided_on_later() -> None:
    """A run on the plateau is taken up with a checkpoint_step and anneals from there."""
    plateau = {"warmup_steps": 2, "cooldown_steps": 3, "constant_lr": CONSTANT, "min_lr": LEAST, "tau": 4.0}
    endless = InfiniteLRScheduler(optimizer(), **plateau)
    rates(endless, 30)
    annealing = InfiniteLRScheduler(optimizer(), **plateau, checkpoint_step=30)
    annealing.load_state_dict(endless.state_dict())
    assert annealing.get_last_lr() == [CONSTANT]
    annealing.optimizer.step()
    annealing.step()
    assert annealing.get_last_lr() == [pytest.approx(LEAST + (CONSTANT - LEAST) * math.exp(-1 / 4))]


def test_a_run_with_it_is_taken_up_exactly(tmp_path: Path) -> None:
    shape = {"warmup_steps": 2, "cooldown_steps": 3, "constant_lr": 0.004, "checkpoint_step": 5, "tau": 2.0}

    def run(folder: Path, **args: Any) -> Any:
        trainer = tiny_trainer(folder, options={"lr_scheduler_factory": partial(InfiniteLRScheduler, **shape)}, **args)
        trainer.train()
        return trainer

    whole = run(tmp_path / "whole", max_steps=8)
    run(tmp_path / "parts", max_steps=4)
    parts = run(tmp_path / "parts", max_steps=8, resume_from_checkpoint=True)
    assert_same_weights(weights(whole.model), weights(parts.model))
    found = [record["learning_rate"] for record in parts.state.log_history if "loss" in record]
    assert found == [record["learning_rate"] for record in whole.state.log_history if "loss" in record]
    assert found[:3] == [0.0, 0.005, 0.01]


def test_wrong_arguments_are_named_together() -> None:
    with pytest.raises(ValueError) as caught:
        InfiniteLRScheduler(optimizer(), warmup_steps=-1, tau=0.0, constant_lr=float("nan"))
    assert all(name in str(caught.value) for name in ("warmup_steps", "tau", "constant_lr"))
    with pytest.raises(ValueError, match="before the end of the cool-down at step 12"):
        InfiniteLRScheduler(optimizer(), warmup_steps=4, cooldown_steps=8, checkpoint_step=11)
