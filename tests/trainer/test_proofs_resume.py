"""Runs that are killed at the worst moments, moved and changed: they go on to the same bits, or say what differs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # two seconds that every child would need for PyTorch's own optimizers
import transformers
from torch.utils.data import IterableDataset

from ironloom import ConfigError, Trainer, TrainerCallback
from ironloom.errors import CheckpointError, DataError
from tiny import Child, RandomSamples, assert_same_weights, records, tiny_lm, tiny_trainer, uneven_samples, weights


class Announce(TrainerCallback):
    """Tells events with their step, and sends its own process a signal at one of them; has a state to be saved."""

    def __init__(self, tell: Callable[[str], None], fatal: str = "", how: int = signal.SIGKILL):
        self.pipe, self.fatal, self.how = tell, fatal, how
        self.seen: dict[str, Any] = {"steps": 0, "losses": []}

    def tell(self, line: str) -> None:
        self.pipe(line)
        if line == self.fatal:
            os.kill(os.getpid(), self.how)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(f"substep {state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen["steps"] += 1
        self.tell(f"step {state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self.seen["losses"].append(logs["loss"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(f"epoch {state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(f"evaluated {state.global_step}")

    def state_dict(self) -> dict[str, Any]:
        self.tell("saving")
        return self.seen

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return iter(RandomSamples(13))


def one_cycle(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=20, cycle_momentum=True)


def plateau(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e-2, factor=0.5)


MOMENTUM = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True})}
ADAFACTOR = {
    "optimizer_cls_and_kwargs": (transformers.Adafactor, {"lr": 0.01, "relative_step": False, "scale_parameter": True, "beta1": 0.9})
}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}

#: What is trained: arguments, options of the trainer, data, dtype of the weights.
CASES: dict[str, dict[str, Any]] = {
    "workers": {"args": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3}},
    "one-cycle": {"options": {**MOMENTUM, "lr_scheduler_factory": one_cycle}, "args": {"save_steps": 3, "max_steps": 14}},
    "plateau": {"options": {**MOMENTUM, "lr_scheduler_factory": plateau}, "args": EVALUATED},
    "adafactor": {"options": ADAFACTOR, "args": {"dataloader_drop_last": True}},
    "adafactor in bfloat16": {"options": ADAFACTOR, "dtype": torch.bfloat16},
    "fp16": {"args": {"fp16": True, "include_num_input_tokens_seen": True}},
    "bf16": {"args": {"bf16": True, "num_train_epochs": 2.5, "save_steps": 4}},
    "stream": {"data": Stream, "args": {"max_steps": 14, "save_steps": 3}},
    "epochs": {"args": {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch", "num_train_epochs": 4}},
    "epoch ends": {"args": {"eval_strategy": "epoch", "save_steps": 3, "load_best_model_at_end": True, "save_total_limit": 1}},
    "marathon": {"args": {"dataloader_num_workers": 2, "save_steps": 3, "num_train_epochs": 40, **EVALUATED, "eval_steps": 7}},
    "long windows": {"args": {"gradient_accumulation_steps": 4, "logging_steps": 3, "save_steps": 1}},
}


def train(tell: Callable[[str], None], folder: Path, case: str, *fatal: Any) -> None:
    spec = CASES[case]
    args = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": -1,
        "num_train_epochs": 3,
        "resume_from_checkpoint": True,
        "metric_for_best_model": "loss" if "plateau" in case else None,
        **spec.get("args", {}),
    }
    callback = Announce(tell, *fatal)
    model = tiny_lm(dropout=0.3).to(spec.get("dtype", torch.float32))
    data = spec.get("data", lambda: RandomSamples(25))()
    trainer = tiny_trainer(folder, model=model, train=data, options={"callbacks": [callback], **spec.get("options", {})}, **args)
    output = trainer.train()
    lines = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    result = {
        "weights": weights(model),
        "records": records(trainer.state.log_history),
        "written": records(lines),
        "loss": output.training_loss,
        "callback": callback.seen,
        "best": (trainer.state.best_metric, trainer.state.best_global_step),
        "epoch": trainer.state.epoch,
        "tokens": (trainer.state.num_input_tokens_seen, trainer.state.num_target_tokens_seen),
    }
    torch.save(result, folder / "result.pt")


def finish(folder: Path, case: str) -> dict[str, Any]:
    _, code = (child := Child(train, folder, case)).end()
    assert code == 0, child
    result: dict[str, Any] = torch.load(folder / "result.pt", weights_only=True)
    return result


def kill_at(folder: Path, case: str, line: str, how: int = signal.SIGKILL) -> None:
    told, code = Child(train, folder, case, line, how).end()
    assert line in told and code != 0, f"ended without telling {line!r}"


def assert_same_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert_same_weights(one["weights"], other["weights"])
    # As texts, so that two that are not a number are equal.
    assert [str(record) for record in one["records"]] == [str(record) for record in other["records"]]
    assert [str(record) for record in other["written"]] == [str(record) for record in other["records"]]
    for name in ("loss", "callback", "best", "epoch", "tokens"):
        assert one[name] == other[name], name


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case == "workers")) for case in CASES if case != "marathon"]
)
def test_killed_within_a_window_at_a_save_and_at_the_end_of_an_epoch(case: str, tmp_path: Path) -> None:
    """Each kill but the first interrupts a run that goes on already; two are in the same steps."""
    whole = finish(tmp_path / "whole", case)
    last = max(record["step"] for record in whole["records"])
    folder = tmp_path / "killed"
    kill_at(folder, case, "substep 0")
    kill_at(folder, case, "saving")
    for line in (f"step {last // 2}", f"substep {last // 2}", f"step {last - 1}", f"epoch {last}"):
        if line != f"epoch {last}" or case != "stream":
            kill_at(folder, case, line)
    assert_same_run(whole, finish(folder, case))


def test_killed_after_the_last_step_before_its_evaluation(tmp_path: Path) -> None:
    """The last checkpoint is of the last step; the evaluation and the best model that belong to the epoch's end are made up for."""
    whole = finish(tmp_path / "whole", "epoch ends")
    for how in (signal.SIGKILL, signal.SIGTERM):
        folder = tmp_path / signal.Signals(how).name
        kill_at(folder, "epoch ends", "step 15", how)
        assert_same_run(whole, finish(folder, "epoch ends"))
        assert_same_run(whole, finish(folder, "epoch ends"))


@pytest.mark.slow
def test_thirty_kills_at_random_moments_in_one_run(tmp_path: Path) -> None:
    """Two hundred steps with workers; whoever sends the signal does not wait for the right moment."""
    whole, folder, draw = finish(tmp_path / "whole", "marathon"), tmp_path / "killed", random.Random(0)
    for _ in range(30):
        child, patience = Child(train, folder, "marathon"), draw.randrange(25)
        for number, _ in enumerate(child.lines()):
            if number >= patience:
                child.kill(signal.SIGKILL)
                break
        assert child.end()[1] == -signal.SIGKILL
    assert_same_run(whole, finish(folder, "marathon"))


def test_a_moved_run_finds_and_protects_its_best_checkpoint(tmp_path: Path) -> None:
    """The best evaluation is the first; the folder is renamed; the best one stays and is loaded in the end."""
    args = {**EVALUATED, "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True, "save_total_limit": 1}

    def run(folder: Path, **more: Any) -> Any:
        scripted = {"compute_metrics": lambda _: {"score": -abs(trainer.state.global_step - 1)}}
        trainer = tiny_trainer(folder, metric_for_best_model="score", options=scripted, **args, **more)
        trainer.train()
        return trainer

    first = run(tmp_path / "old", max_steps=3, lr_scheduler_type="constant")
    assert first.state.best_global_step == 1
    shutil.move(tmp_path / "old", tmp_path / "new")
    again = run(tmp_path / "new", max_steps=6, lr_scheduler_type="constant", resume_from_checkpoint=True)
    assert again.state.best_model_checkpoint == str(tmp_path / "new" / "checkpoints" / "checkpoint-1")
    assert sorted(path.name for path in (tmp_path / "new" / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-6"]
    assert_same_weights(weights(first.model), weights(again.model))


@pytest.mark.parametrize(
    "changes",
    [
        {"logging_steps": 3},
        {"eval_strategy": "steps", "eval_steps": 1},
        {"save_steps": 5},
        {"dataloader_num_workers": 2},
        {"save_total_limit": 1, "disable_tqdm": False},
        {"per_device_eval_batch_size": 1},
    ],
    ids=str,
)
def test_settings_that_may_change_change_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    data = RandomSamples(16)
    whole = tiny_trainer(tmp_path / "whole", train=data, max_steps=8, lr_scheduler_type="constant")
    whole.train()
    tiny_trainer(tmp_path / "parts", train=data, max_steps=3, lr_scheduler_type="constant").train()
    parts = tiny_trainer(tmp_path / "parts", train=data, max_steps=8, lr_scheduler_type="constant", resume_from_checkpoint=True, **changes)
    parts.train()
    assert_same_weights(weights(whole.model), weights(parts.model))
    assert parts.state.logging_steps == changes.get("logging_steps", 1)


@pytest.mark.parametrize("size", [15, 17, 40])
def test_another_number_of_samples_is_told(size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_trainer(tmp_path, max_steps=3).train()
    assert "samples" not in caplog.text
    trainer = tiny_trainer(tmp_path, train=uneven_samples(size), resume_from_checkpoint=True)
    assert trainer.train().global_step == 6
    assert f"has {size} samples, it had 16 when" in caplog.text


def test_data_that_ends_before_the_place_is_refused(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=5).train()
    with pytest.raises(DataError, match="is this the dataset"):
        tiny_trainer(tmp_path, train=uneven_samples(4), resume_from_checkpoint=True).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": MOMENTUM}, "that of AdamW, but this run has SGD.*restore_optimizer_state=False"),
        ({"options": ADAFACTOR}, "that of AdamW, but this run has Adafactor"),
        ({"model": tiny_lm(width=8)}, "shape: embed.weight is .31, 16. in the files, .31, 8. in the model"),
    ],
    ids=["SGD", "Adafactor", "width"],
)
def test_another_optimizer_or_model_is_refused_by_name(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(CheckpointError, match=message):
        tiny_trainer(tmp_path, resume_from_checkpoint=True, **options).train()
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()


def test_another_optimizer_is_fine_when_its_state_is_not_wanted(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=2).train()
    again = tiny_trainer(
        tmp_path, options=MOMENTUM, resume_from_checkpoint=True, restore_optimizer_state=False, restore_scheduler_state=False
    )
    assert again.train().global_step == 6


def test_a_batch_size_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ConfigError, match=r"stands at sample 4.*batch of 3"):
        tiny_trainer(tmp_path, resume_from_checkpoint=True, per_device_train_batch_size=3).train()


class EvaluationOrdersMore(TrainerCallback):
    """Asks within an event for something at the next boundary."""

    def __init__(self, event: str, flag: str, step: int = 2):
        def handler(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                setattr(control, flag, True)

        setattr(self, event, handler)


@pytest.mark.parametrize("event", ["on_evaluate", "on_log", "on_step_end"])
@pytest.mark.parametrize("flag", ["should_log", "should_evaluate", "should_epoch_stop"])
def test_what_was_asked_for_the_next_boundary_is_done_there_after_a_restart(event: str, flag: str, tmp_path: Path) -> None:
    def run(folder: Path, **args: Any) -> Trainer:
        options = {"callbacks": [EvaluationOrdersMore(event, flag)]}
        trainer = tiny_trainer(folder, options=options, **EVALUATED, logging_steps=2, lr_scheduler_type="constant", **args)
        trainer.train()
        return trainer

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", max_steps=2)
    parts = run(tmp_path / "parts", resume_from_checkpoint=True)
    assert records(parts.state.log_history) == records(whole.state.log_history)
    assert_same_weights(weights(whole.model), weights(parts.model))
