"""Steps of one's own give the losses, norms and weights of a loop by hand."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import dreams
from dreams import Duel, OwnOptimizer, Steady, configured, losses, points


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: float = 1.0) -> tuple[list[float], list[float]]:
    """Losses and norms of a plain loop: mean squared error over all samples of a step, epochs of 23 samples in fours."""
    found, norms = [], []
    batches = [points()[start : start + 4] for start in range(0, dreams.SAMPLES, 4)]
    windows = itertools.cycle([batches[start : start + 2] for start in range(0, len(batches), 2)])
    for window in itertools.islice(windows, steps):
        samples = [sample for batch in window for sample in batch]
        outputs = net(torch.stack([inputs for inputs, _ in samples]))
        loss = F.mse_loss(outputs, torch.stack([targets for _, targets in samples]))
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), clip).item())
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, norms


def test_losses_and_norms_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    trainer = OwnOptimizer(configured(tmp_path))
    trainer.set_up()
    net = copy.deepcopy(trainer.net)
    trainer.fit()
    found, norms = by_hand(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 15)
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    assert [record["grad_norm"] for record in trainer.state.log_history if "loss" in record] == pytest.approx(norms, rel=1e-5)
    for mine, theirs in zip(trainer.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


class Weighted(OwnOptimizer):
    """Counts only some samples: what a batch weighs is known after its forward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        counted = inputs[:, 0] > -0.5
        return F.mse_loss(self.net(inputs), targets, reduction="none").mean(1)[counted].sum(), counted.sum()


def test_a_sum_and_its_weight_are_divided_over_the_whole_step(tmp_path: Path) -> None:
    trainer = Weighted(configured(tmp_path, n_epochs=1))
    trainer.set_up()
    net = copy.deepcopy(trainer.net)
    trainer.fit()
    samples = [sample for sample in points()[:8] if sample[0][0] > -0.5]
    loss = F.mse_loss(net(torch.stack([inputs for inputs, _ in samples])), torch.stack([targets for _, targets in samples]))
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in net.parameters()]).item()
    first = trainer.state.log_history[1]
    assert len(samples) not in (0, 8)
    assert (first["loss"], first["grad_norm"]) == pytest.approx((loss.item(), norm), rel=1e-5)
    assert trainer.state.num_target_tokens_seen == sum(bool(inputs[0] > -0.5) for inputs, _ in points())


def test_adversaries_stepped_by_hand_are_a_loop_by_hand(tmp_path: Path) -> None:
    trainer = Duel(configured(tmp_path, gradient_clip_val=0.5, gradient_accumulation_steps=1, n_epochs=2))
    trainer.configure_dataloaders = lambda: (DataLoader(points(), batch_size=4), None)  # type: ignore[method-assign]
    trainer.set_up()
    maker, judge = copy.deepcopy(trainer.maker), copy.deepcopy(trainer.judge)
    trainer.fit()
    one = torch.optim.Adam(maker.parameters(), lr=0.02, eps=1e-4)
    two = torch.optim.SGD(judge.parameters(), lr=0.05, momentum=0.9)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in (one, two)]
    found = []
    for start in [*range(0, 23, 4)] * 2:
        inputs, targets = (torch.stack(list(column)) for column in zip(*points()[start : start + 4], strict=True))
        made = maker(inputs)
        judged = F.softplus(judge(made.detach())).mean() + F.softplus(-judge(targets)).mean()
        judged.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 0.5)
        two.step()
        two.zero_grad()
        fooled = F.softplus(-judge(made)).mean()
        fooled.backward()
        nn.utils.clip_grad_norm_(maker.parameters(), 0.5)
        one.step()
        one.zero_grad()
        two.zero_grad()
        for schedule in schedules:
            schedule.step()
        found.append((judged + fooled).item())
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    for mine, theirs in zip(trainer.maker.parameters(), maker.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    record = next(record for record in trainer.state.log_history if "loss" in record)
    assert record["judge_norm"] > 0 and record["judged"] < record["loss"]


class TwoRates(Steady):
    """Two models that one loss trains, by an optimizer each; the second has a schedule and waits for nothing."""

    def configure_models(self) -> None:
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2)

    def configure_dataloaders(self) -> Any:
        return DataLoader(points(), batch_size=4), {"near": points(7, seed=1), "far": points(5, seed=2)}

    def configure_optimizers(self) -> Any:
        self.slow = torch.optim.SGD(self.body.parameters(), lr=0.01)
        return [self.slow, torch.optim.Adam(self.head.parameters(), lr=0.01, eps=1e-4)]

    def configure_schedulers(self) -> Any:
        return {self.slow: torch.optim.lr_scheduler.ExponentialLR(self.slow, 0.5)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.head(self.body(batch[0])), batch[1])


def test_two_optimizers_are_stepped_together(tmp_path: Path) -> None:
    trainer = TwoRates(configured(tmp_path, {"exit_steps": 5}))
    trainer.set_up()
    body, head = copy.deepcopy(trainer.body), copy.deepcopy(trainer.head)
    trainer.fit()
    trainer = TwoRates(configured(tmp_path))
    trainer.fit()

    class Both(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for optimizer in both:
                optimizer.step()
            schedule.step()

    slow = torch.optim.SGD(body.parameters(), lr=0.01)
    both = [slow, torch.optim.Adam(head.parameters(), lr=0.01, eps=1e-4)]
    schedule = torch.optim.lr_scheduler.ExponentialLR(slow, 0.5)
    net = nn.Sequential(body, head)
    found, norms = by_hand(net, Both(net.parameters(), lr=1.0), 15)
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    assert [record["grad_norm"] for record in trainer.state.log_history if "loss" in record] == pytest.approx(norms, rel=1e-5)
    assert {"eval_near_loss", "eval_far_loss"} <= trainer.evaluate().keys()
    assert trainer.slow.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**15)
