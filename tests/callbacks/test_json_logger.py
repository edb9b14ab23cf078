"""What JsonLogger and MetricsWriter leave on the disk: whole lines, each step once, whatever happened to the run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ironloom import TrainerControl, TrainerState, TrainingArguments
from ironloom.callbacks import JsonLogger, TrainerCallback
from ironloom.callbacks.records import RecordFile, scalars
from tiny import Child, tiny_trainer


def lines(folder: Path, name: str = "trainer_logs.jsonl") -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "logs" / name).read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "time" and not key.endswith(("runtime", "per_second"))}


def run(folder: Path, *callbacks: Any, **args: Any) -> Any:
    logger = JsonLogger(name="run", seeds=[1, 2], limit=float("inf"))
    trainer = tiny_trainer(folder, options={"callbacks": [logger, *callbacks]}, **args)
    trainer.train()
    return trainer


def test_every_record_and_the_experiment(tmp_path: Path) -> None:
    trainer = run(tmp_path, eval_strategy="steps", eval_steps=3)
    first, *rest = lines(tmp_path)
    assert first == {"experiment_info": {"name": "run", "seeds": [1, 2], "limit": "inf"}}
    assert [timeless(record) for record in rest] == [timeless(record) for record in trainer.state.log_history]
    assert sum("eval_loss" in record for record in rest) == 2
    assert all(record["time"].endswith("+00:00") for record in rest)
    trainer.evaluate(metric_key_prefix="test")
    assert "test_loss" in lines(tmp_path)[-1]


def test_a_loss_of_zero_is_a_record() -> None:
    assert scalars({"loss": 0.0, "eval_loss": 0, "note": "x", "flag": True}) == {"train/loss": 0.0, "eval/loss": 0.0}


@pytest.mark.parametrize("name", ["trainer_logs.jsonl", "metrics.jsonl"])
def test_a_run_that_goes_on_records_each_step_once(name: str, tmp_path: Path) -> None:
    """The first run is at step 5, its checkpoint at step 4: step 5 is trained twice and stands there once."""
    run(tmp_path / "parts", max_steps=5, exit_steps=None, save_steps=4, lr_scheduler_type="constant")
    _drop_checkpoint(tmp_path / "parts", 5)
    before = lines(tmp_path / "parts", name)
    run(tmp_path / "parts", max_steps=8, save_steps=4, lr_scheduler_type="constant", resume_from_checkpoint=True)
    run(tmp_path / "whole", max_steps=8, save_steps=4, lr_scheduler_type="constant")
    parts, whole = ([timeless(record) for record in lines(tmp_path / part, name)] for part in ("parts", "whole"))
    assert [record for record in parts if "train_loss" not in record] == [record for record in whole if "train_loss" not in record]
    times = [record.get("time") for record in before if record.get("step", 9) <= 4]
    assert [record.get("time") for record in lines(tmp_path / "parts", name) if record.get("step", 9) <= 4] == times


def _drop_checkpoint(folder: Path, step: int) -> None:
    (folder / "checkpoints" / f"checkpoint-{step}" / "manifest.json").unlink()


def test_a_fresh_run_begins_a_fresh_file(tmp_path: Path) -> None:
    run(tmp_path, max_steps=3, save_strategy="no")
    trainer = run(tmp_path, max_steps=2, save_strategy="no")
    assert len(lines(tmp_path)) == 1 + len(trainer.state.log_history)


class Stop(TrainerCallback):
    """Does something at a step."""

    def __init__(self, step: int, what: Callable[[], None]):
        self.step, self.what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.what()


def _killed(tell: Any, folder: Path) -> None:
    run(folder, Stop(5, lambda: os.kill(os.getpid(), signal.SIGKILL)), save_strategy="no")


def test_a_kill_leaves_whole_lines_of_all_steps_before(tmp_path: Path) -> None:
    _, code = Child(_killed, tmp_path).end()
    assert code == -signal.SIGKILL
    assert [record["step"] for record in lines(tmp_path)[1:]] == [1, 2, 3, 4]


def test_a_torn_line_is_left_out_when_the_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path, max_steps=4)
    path = tmp_path / "logs" / "trainer_logs.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tmp_path, max_steps=6, resume_from_checkpoint=True)
    assert [record["step"] for record in lines(tmp_path)[1:]] == [1, 2, 3, 4, 5, 6, 6]


def test_a_disk_that_refuses_costs_the_records_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be", encoding="utf-8")
    assert run(tmp_path).state.global_step == 6
    assert sum("trainer_logs.jsonl could not be written" in message for message in caplog.messages) == 1


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    logger, state = JsonLogger(), TrainerState(is_world_process_zero=False)
    args = TrainingArguments(output_dir=tmp_path)
    logger.on_train_begin(args, state, TrainerControl())
    logger.on_log(args, state, TrainerControl(), logs={"loss": 1.0})
    assert not (tmp_path / "logs").exists()


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "x.jsonl")
    file.append({"step": 1})
    file.replace([{"step": 2}, {"text": "\u00e4\n"}])
    assert file.read() == [{"step": 2}, {"text": "\u00e4\n"}]
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
