"""Learning rates, step by step, against transformers' and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from ironloom.optim import adamw, schedule_by_name, warmup_anneal


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def optimizer(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_by_name_equals_transformers(name: str, warmup: int) -> None:
    ours = rates(schedule_by_name(name, optimizer(), warmup, 40, {}), 50)
    theirs = rates(get_scheduler(name, optimizer(), warmup, 40), 50)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15)


def test_by_name_passes_arguments_on() -> None:
    ours = rates(schedule_by_name("cosine_with_min_lr", optimizer(), 5, 40, {"min_lr": 0.01}), 40)
    assert min(ours[5:]) >= 0.01
    assert ours[39] < 0.011


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="consine"):
        schedule_by_name("consine", optimizer(), 0, 10, {})


@pytest.mark.parametrize(("kind", "middle"), [("cosine", 0.5 * (1 + math.cos(math.pi * 0.5))), ("linear", 0.5)])
def test_warmup_anneal_closed_form(kind: str, middle: float) -> None:
    found = rates(warmup_anneal(optimizer(1.0), kind, warmup_steps=10, annealing_steps=20, min_lr=0.2), 40)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert found[20] == pytest.approx(0.2 + 0.8 * middle)
    assert found[30:] == pytest.approx([0.2] * 10)


def test_annealing_takes_what_the_run_leaves() -> None:
    found = rates(warmup_anneal(optimizer(1.0), "linear", warmup_steps=4, total_steps=24), 24)
    assert found[23] == pytest.approx(1 / 20)


def test_constant_never_falls() -> None:
    assert rates(warmup_anneal(optimizer(1.0), "constant", warmup_steps=2, total_steps=10), 10)[2:] == [1.0] * 8


def test_min_lr_is_absolute_for_every_group() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.5)]
    scheduler = warmup_anneal(torch.optim.SGD(groups), "cosine", annealing_steps=5, min_lr=0.1)
    rates(scheduler, 10)
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.1, 0.1])


class Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(4, 3)
        self.proj = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)


@pytest.mark.parametrize("exempt", [True, False])
def test_adamw_decays_matrices_only(exempt: bool) -> None:
    model = Shapes()
    optimizer = adamw(model.named_parameters(), weight_decay=0.3, no_decay_on_embedding=exempt)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.3 for p in group["params"]}
    expected = {id(model.proj.weight)} | (set() if exempt else {id(model.embed_tokens.weight)})
    assert decayed == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_adamw_is_pytorch_adamw() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    other.load_state_dict(one.state_dict())
    ours = adamw(one.named_parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, foreach=False)
    for step in range(5):
        for model, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            (model(torch.full((2, 4), step + 1.0)) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-6, atol=1e-7)
