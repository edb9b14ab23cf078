"""Learning rates, step by step, against transformers' and against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from ironloom.optim import adamw, schedule_by_name, warmup_anneal
from ironloom.trainer.optimizer_state import load_schedule


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


STEPS = 40


def theirs(name: str, warmup: int, **kwargs: object) -> list[float]:
    """transformers' rates with a base of 0.1, of the steps after the warm-up: in it theirs are a step behind."""
    schedule = get_scheduler(name, optimizer(), warmup, STEPS, scheduler_specific_kwargs=kwargs)
    return rates(schedule, STEPS + 5)[warmup:]


@pytest.mark.parametrize("warmup", [0, 6])
@pytest.mark.parametrize("power", [1.0, 2.5, 0.5])
def test_polynomial_is_that_of_transformers(warmup: int, power: float) -> None:
    found = rates(warmup_anneal(optimizer(), "polynomial", warmup, 0, 0.02, STEPS, power=power), STEPS + 5)
    assert found[:warmup] == pytest.approx([0.1 * (step + 1) / warmup for step in range(warmup)])
    assert found[warmup:] == pytest.approx(theirs("polynomial", warmup, power=power, lr_end=0.02), rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 6])
def test_inverse_sqrt_is_that_of_transformers_down_to_the_least(warmup: int) -> None:
    found = rates(warmup_anneal(optimizer(), "inverse_sqrt", warmup), STEPS + 5)
    assert found[warmup:] == pytest.approx(theirs("inverse_sqrt", warmup), rel=1e-12)
    least = rates(warmup_anneal(optimizer(), "inverse_sqrt", 2, min_lr=0.05), STEPS)
    assert least[2:] == pytest.approx([max(0.05, 0.1 * math.sqrt(2 / step)) for step in range(2, STEPS)])
    assert least[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("warmup", [0, 6])
@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_is_that_of_transformers(warmup: int, shape: str) -> None:
    found = rates(warmup_anneal(optimizer(), "warmup_stable_decay", warmup, 10, 0.02, STEPS, decay_type=shape), STEPS + 5)
    expected = theirs("warmup_stable_decay", warmup, num_decay_steps=10, min_lr_ratio=0.2, decay_type=shape)
    assert found[warmup:] == pytest.approx(expected, rel=1e-12)
    assert found[warmup : STEPS - 10] == pytest.approx([0.1] * (STEPS - 10 - warmup))
    assert found[STEPS:] == pytest.approx([0.02] * 5)


@pytest.mark.parametrize("kind", ["cosine", "linear", "polynomial"])
def test_falls_are_those_of_pytorch(kind: str) -> None:
    base = torch.optim.lr_scheduler
    expected = {
        "cosine": lambda held: base.CosineAnnealingLR(held, T_max=STEPS, eta_min=0.02),
        "linear": lambda held: base.LinearLR(held, 1.0, 0.2, total_iters=STEPS),
        "polynomial": lambda held: base.PolynomialLR(held, total_iters=STEPS, power=3.0),
    }[kind](optimizer())
    least = 0.0 if kind == "polynomial" else 0.02
    found = rates(warmup_anneal(optimizer(), kind, min_lr=least, total_steps=STEPS, power=3.0), STEPS)
    assert found == pytest.approx(rates(expected, STEPS), rel=1e-9)


KINDS = {
    "cosine": {},
    "linear": {},
    "polynomial": {"power": 2.0},
    "inverse_sqrt": {},
    "warmup_stable_decay": {"annealing_steps": 9, "decay_type": "1-sqrt"},
    "constant": {},
}


@pytest.mark.parametrize("at", [0, 2, 20, 35, 41])
@pytest.mark.parametrize("kind", KINDS)
def test_taken_up_anywhere_it_goes_on_the_same(kind: str, at: int) -> None:
    def made() -> torch.optim.lr_scheduler.LRScheduler:
        return warmup_anneal(optimizer(), kind, 4, total_steps=STEPS, **{"min_lr": 0.01, **KINDS[kind]})  # type: ignore[arg-type]

    whole, first, again = rates(made(), STEPS + 5), made(), made()
    rates(first, at)
    load_schedule(again, first.state_dict())
    assert rates(again, STEPS + 5 - at) == whole[at:]


@pytest.mark.parametrize("kind", KINDS)
def test_rates_never_jump_and_only_fall_after_the_warm_up(kind: str) -> None:
    found = rates(warmup_anneal(optimizer(), kind, 4, total_steps=1000, **{**KINDS[kind], "annealing_steps": 500}), 1010)  # type: ignore[arg-type]
    assert all(one >= other for one, other in itertools.pairwise(found[3:]))
    assert max(one - other for one, other in itertools.pairwise(found[3:])) < (0.011 if kind == "inverse_sqrt" else 0.005)


@pytest.mark.parametrize("wrong", [{"kind": "cosin"}, {"kind": "warmup_stable_decay", "decay_type": "log", "annealing_steps": 2}])
def test_shapes_that_there_are_not(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="there is no schedule"):
        warmup_anneal(optimizer(), total_steps=10, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, 9])
def test_a_fall_that_does_not_fit(steps: int) -> None:
    with pytest.raises(ValueError, match=f"a fall of {steps} steps after a warm-up of 4 does not fit into 10 steps"):
        warmup_anneal(optimizer(), "warmup_stable_decay", 4, steps, total_steps=10)


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
