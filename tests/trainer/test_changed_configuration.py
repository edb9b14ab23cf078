"""A run that is gone on with under another configuration: what was changed counts, what was reached stays."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ironloom import Trainer, TrainerCallback
from ironloom.callbacks import JsonLogger
from tiny import assert_same_weights, tiny_lm, tiny_trainer, weights


def rates(trainer: Any) -> list[float]:
    return [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine", "cosine_with_min_lr"])
def test_a_changed_rate_counts_from_the_resumed_step_on(schedule: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The rates are those that the new base rate has always given at these steps."""
    kwargs = {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}} if schedule == "cosine_with_min_lr" else {}
    options = {"lr_scheduler_type": schedule, "save_steps": 3, **kwargs}
    tiny_trainer(tmp_path / "run", **options, exit_steps=3).train()
    resumed = tiny_trainer(tmp_path / "run", **options, learning_rate=0.002, resume_from_checkpoint=True)
    resumed.train()
    straight = tiny_trainer(tmp_path / "straight", **options, learning_rate=0.002)
    straight.train()
    assert rates(resumed)[3:] == pytest.approx(rates(straight)[3:], rel=1e-12)
    assert "lr is 0.002 in this configuration, it was 0.01 when the checkpoint was saved" in caplog.text


def test_a_schedule_of_pytorch_follows_too(tmp_path: Path) -> None:
    def steps(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def chain(optimizer: torch.optim.Optimizer) -> Any:
        parts = [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1), torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])

    for index, factory in enumerate([steps, chain]):
        options = {"lr_scheduler_factory": factory}
        tiny_trainer(tmp_path / f"run{index}", options=options, save_steps=3, exit_steps=3).train()
        resumed = tiny_trainer(tmp_path / f"run{index}", options=options, learning_rate=0.002, resume_from_checkpoint=True)
        resumed.train()
        straight = tiny_trainer(tmp_path / f"straight{index}", options=options, learning_rate=0.002)
        straight.train()
        assert rates(resumed)[3:] == pytest.approx(rates(straight)[3:], rel=1e-9)


def test_changed_decay_and_betas_count(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, exit_steps=2).train()
    resumed = tiny_trainer(tmp_path, weight_decay=0.3, adam_beta2=0.9, resume_from_checkpoint=True)
    resumed.train()
    assert [group["weight_decay"] for group in resumed.optimizer.param_groups] == [0.3, 0.0]
    assert {tuple(group["betas"]) for group in resumed.optimizer.param_groups} == {(0.9, 0.9)}


def test_what_a_callback_set_is_restored_where_the_configuration_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Damp(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1:
                for group in optimizer.param_groups:
                    group["eps"] = 1e-3

    tiny_trainer(tmp_path / "run", options={"callbacks": [Damp()]}, exit_steps=2).train()
    resumed = tiny_trainer(tmp_path / "run", options={"callbacks": [Damp()]}, resume_from_checkpoint=True)
    resumed.train()
    straight = tiny_trainer(tmp_path / "straight", options={"callbacks": [Damp()]})
    straight.train()
    assert resumed.optimizer.param_groups[0]["eps"] == 1e-3
    assert "in this configuration" not in caplog.text
    assert_same_weights(weights(resumed.model), weights(straight.model))


def test_parameters_that_a_callback_adds_are_clipped(tmp_path: Path) -> None:
    """Plain gradient descent with a tiny norm: the added weights can only move by rate times norm."""
    model = tiny_lm()
    model.head.weight.requires_grad_(False)

    class Thaw(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1:
                model.head.weight.requires_grad_(True)
                optimizer.add_param_group({"params": [("head.weight", model.head.weight)]})

    before = model.head.weight.detach().clone()
    options = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1.0}), "callbacks": [Thaw()], "lr_scheduler_factory": lambda _: None}
    tiny_trainer(tmp_path, model=model, options=options, max_steps=2, max_grad_norm=1e-3, save_strategy="no").train()
    moved = nn.utils.get_total_norm([model.head.weight.detach() - before]).item()
    assert 0 < moved <= 1.001e-3


def test_going_on_with_a_finished_run_keeps_its_record(tmp_path: Path) -> None:
    files = [tmp_path / "logs" / name for name in ("metrics.jsonl", "trainer_logs.jsonl")]
    tiny_trainer(tmp_path, options={"callbacks": [JsonLogger(name="a")]}).train()
    before = [file.read_text() for file in files]
    assert all("train_runtime" in json.loads(text.splitlines()[-1]) for text in before)
    tiny_trainer(tmp_path, options={"callbacks": [JsonLogger(name="a")]}, resume_from_checkpoint=True).train()
    assert [file.read_text() for file in files] == before


def test_a_signal_that_comes_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    class Late(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = tiny_trainer(tmp_path, cls=Trainer, options={"callbacks": [Late()]})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 6
