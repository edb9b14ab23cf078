"""A run that is killed and goes on ends with the same bits as one that is not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import Trainer, TrainerCallback
from tiny import RandomSamples, assert_same_weights, losses, tiny_lm, uneven_samples, weights


def run_child(folder: Path, options: dict[str, Any], pipe: Any) -> None:
    """A training run in a process of its own; tells its parent what happens and in the end the result."""
    torch.set_num_threads(1)

    class Announce(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pipe.send(f"step {state.global_step}")

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pipe.send(f"saved {state.global_step}")

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pipe.send(f"evaluating {state.global_step}")

    args = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "learning_rate": 0.01,
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_steps": 2,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        "resume_from_checkpoint": True,
        **options,
    }
    trainer = Trainer(tiny_lm(dropout=0.3), args, train_dataset=RandomSamples(25), eval_dataset=uneven_samples(6), callbacks=[Announce])
    output = trainer.train()
    torch.save({"weights": trainer.model.state_dict(), "training_loss": output.training_loss}, folder / "result.pt")
    history = [record for record in trainer.state.log_history if "train_runtime" not in record]
    (folder / "history.json").write_text(json.dumps(history))


def start(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Fork: the child starts at once because everything is imported. Its PyTorch has one thread, so that is safe."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=run_child, args=(folder, options, send))
    child.start()
    send.close()
    return child, receive


def lines(pipe: Any) -> Iterator[str]:
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return


def finish(folder: Path, **options: Any) -> dict[str, Any]:
    child, pipe = start(folder, **options)
    printed = list(lines(pipe))
    child.join(60)
    assert child.exitcode == 0
    result: dict[str, Any] = torch.load(folder / "result.pt", weights_only=True)
    return {**result, "history": json.loads((folder / "history.json").read_text()), "printed": printed}


def kill_at(folder: Path, line: str, how: int = signal.SIGKILL, **options: Any) -> None:
    """Start a run and send it a signal when it says a line."""
    child, pipe = start(folder, **options)
    for printed in lines(pipe):
        if printed == line:
            os.kill(child.pid, how)
            break
    list(lines(pipe))
    child.join(60)
    assert child.exitcode != 0, f"ended without saying {line!r}"


def assert_equal_runs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert_same_weights(one["weights"], other["weights"])
    assert losses(one["history"]) == losses(other["history"])
    assert one["history"] == other["history"] or strip_times(one["history"]) == strip_times(other["history"])
    assert one["training_loss"] == other["training_loss"]


def strip_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if not key.endswith(("runtime", "per_second"))} for record in history]


OPTIONS = [
    {},
    {"dataloader_num_workers": 2},
    {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "logging_steps": 4},
    {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_steps": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_killed_again_and_again(options: dict[str, Any], tmp_path: Path) -> None:
    """Three SIGKILLs at drawn steps, with shuffling, dropout, accumulation, epochs of uneven length and random samples."""
    whole = finish(tmp_path / "whole", **options)
    assert whole["history"][-1]["step"] == 15, "25 samples, 3 x 2 a step: 5 steps an epoch"
    draw = random.Random(repr(options))
    for step in sorted(draw.sample(range(2, 15), 3)):
        kill_at(tmp_path / "killed run", f"step {step}", **options)
    resumed = finish(tmp_path / "killed run", **options)
    assert len(resumed["printed"]) < len(whole["printed"]), "it did not go on from a checkpoint"
    assert_equal_runs(whole, resumed)


@pytest.mark.parametrize("line", ["evaluating 6", "step 6", "saved 6"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_in_evaluation_and_around_saves(line: str, how: int, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "logging_steps": 4, "load_best_model_at_end": True}
    whole = finish(tmp_path / "whole", **options)
    kill_at(tmp_path / "stopped", line, how, **options)
    assert_equal_runs(whole, finish(tmp_path / "stopped", **options))


def in_process(folder: Path, **args: Any) -> Trainer:
    options = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.01,
        **args,
    }
    trainer = Trainer(tiny_lm(dropout=0.2), options, train_dataset=uneven_samples(24), eval_dataset=uneven_samples(6))
    trainer.train()
    return trainer


def test_resuming_a_finished_run_trains_no_step(tmp_path: Path) -> None:
    first = in_process(tmp_path)
    before, checkpoints = weights(first.model), sorted((tmp_path / "checkpoints").iterdir())
    again = in_process(tmp_path, resume_from_checkpoint=True)
    assert_same_weights(before, weights(again.model))
    assert losses(again.state.log_history) == losses(first.state.log_history)
    assert again.state.global_step == 6
    assert sorted((tmp_path / "checkpoints").iterdir()) == checkpoints


def test_a_longer_run_goes_on(tmp_path: Path) -> None:
    """A constant schedule does not depend on the length: 4 and 2 more steps are 6 steps."""
    whole = in_process(tmp_path / "whole", lr_scheduler_type="constant")
    in_process(tmp_path / "parts", lr_scheduler_type="constant", max_steps=4)
    longer = in_process(tmp_path / "parts", lr_scheduler_type="constant", resume_from_checkpoint=True)
    assert_same_weights(weights(whole.model), weights(longer.model))


def test_from_a_named_checkpoint(tmp_path: Path) -> None:
    whole = in_process(tmp_path / "a", save_total_limit=None)
    part = in_process(tmp_path / "b", resume_from_checkpoint=str(tmp_path / "a" / "checkpoints" / "checkpoint-2"))
    assert_same_weights(weights(whole.model), weights(part.model))
    assert losses(part.state.log_history) == losses(whole.state.log_history)


def test_without_optimizer_state_it_says_what_it_cannot_restore(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_process(tmp_path, max_steps=4, save_optimizer_state=False, save_scheduler_state=False)
    again = in_process(tmp_path, resume_from_checkpoint=True, save_optimizer_state=False, save_scheduler_state=False)
    assert "no optimizer state" in caplog.text
    assert "moved to step 4" in caplog.text
    assert again.state.global_step == 6
    rates = [record["learning_rate"] for record in again.state.log_history if "loss" in record]
    assert rates[4:] == pytest.approx([0.01 * 2 / 6, 0.01 * 1 / 6]), "the schedule goes on where it was"


def test_another_batch_size_is_refused_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    in_process(tmp_path, max_steps=4)
    with pytest.raises(ValueError, match="sample 8"):
        in_process(tmp_path, resume_from_checkpoint=True, per_device_train_batch_size=5)


def test_same_product_of_batch_and_accumulation_goes_on(tmp_path: Path) -> None:
    """One batch of four is two of two: the same samples in every step."""
    in_process(tmp_path, max_steps=4, per_device_train_batch_size=4)
    again = in_process(tmp_path, resume_from_checkpoint=True, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    whole = in_process(tmp_path / "whole", per_device_train_batch_size=4)
    assert again.state.epoch == whole.state.epoch
    first, second = (trainer.train_dataloader for trainer in (whole, again))
    merged = [torch.cat([a["input_ids"], b["input_ids"]]) for a, b in zip(*[iter(second.iterate(0))] * 2, strict=True)]
    assert all(torch.equal(big["input_ids"], small) for big, small in zip(first.iterate(0), merged, strict=True))


def test_a_longer_run_takes_the_rates_of_its_own_schedule(tmp_path: Path) -> None:
    in_process(tmp_path, max_steps=2)
    longer = in_process(tmp_path, max_steps=6, resume_from_checkpoint=True)
    rates = [record["learning_rate"] for record in longer.state.log_history if "loss" in record]
    assert rates[2:] == pytest.approx([0.01 * (6 - step) / 6 for step in range(2, 6)])
