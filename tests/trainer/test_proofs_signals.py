"""SIGINT and SIGTERM at any moment: the step is finished and saved, the exit code is 128 + n, and the run goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import Interrupted, TrainerCallback
from ironloom.checkpoint.folder import CheckpointFolder
from tiny import Child, RandomSamples, assert_same_weights, records, tiny_lm, tiny_trainer, weights


def make(folder: Path, **args: Any) -> Any:
    """Shuffling, dropout, accumulation, two epochs, evaluations, best model, saves."""
    options = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 3,
        "load_best_model_at_end": True,
        "resume_from_checkpoint": True,
    }
    return tiny_trainer(folder, model=tiny_lm(dropout=0.3), train=RandomSamples(25), **{**options, **args})


def run(tell: Callable[[str], None], folder: Path, moment: int, signum: int, args: dict[str, Any]) -> None:
    """A run that sends itself a signal at its n-th function call, counted from the making of the model on; 0: never."""
    calls, process = 0, os.getpid()

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        if event == "call" and os.getpid() == process:
            calls += 1
            if calls == moment:
                os.kill(process, signum)

    trainer = None
    sys.setprofile(count)
    try:
        trainer = make(folder, **args)
        trainer.train()
    except Interrupted as stopped:
        sys.setprofile(None)
        tell(f"stopped {trainer.state.global_step}")
        sys.exit(stopped.exit_code)
    finally:
        sys.setprofile(None)
    tell(f"calls {calls}")
    torch.save({"weights": weights(trainer.model), "records": records(trainer.state.log_history)}, folder / "result.pt")


def start(folder: Path, moment: int = 0, signum: int = signal.SIGINT, **args: Any) -> tuple[list[str], int]:
    folder.mkdir(exist_ok=True)
    return Child(run, folder, moment, signum, args).end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """The uninterrupted run, and how many function calls it makes."""
    folder = tmp_path_factory.mktemp("whole")
    lines, code = start(folder)
    assert code == 0
    return torch.load(folder / "result.pt", weights_only=True), int(lines[-1].split()[1])


def interrupt(folder: Path, draw: random.Random, calls: int, expected: dict[str, Any], **args: Any) -> None:
    """Two signals at drawn moments, one after the other, then on to the end."""
    for _ in range(2):
        signum = draw.choice([signal.SIGINT, signal.SIGTERM])
        lines, code = start(folder, draw.randrange(1, calls), signum, **args)
        stopped = [int(line.split()[1]) for line in lines if line.startswith("stopped")]
        # Before train() has begun there is nothing to save, and a signal does what it always does.
        assert code in ({128 + signum} if stopped else {0, 1, 128 + signum, -signum})
        for step in stopped:
            latest = CheckpointFolder(folder / "checkpoints").latest(pytest.fail)
            assert latest is not None and latest.step == step
    _, code = start(folder, **args)
    assert code == 0
    result = torch.load(folder / "result.pt", weights_only=True)
    assert_same_weights(expected["weights"], result["weights"])
    assert result["records"] == expected["records"]


@pytest.mark.parametrize("number", range(10))
def test_signals_at_random_moments(number: int, whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    expected, calls = whole
    interrupt(tmp_path / "run", random.Random(number), calls, expected)


def test_with_workers_whose_group_gets_the_signal_too(whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    expected, calls = whole
    interrupt(tmp_path / "run", random.Random(1), calls // 2, expected, dataloader_num_workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 200))
def test_a_hundred_more(number: int, whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    expected, calls = whole
    interrupt(tmp_path / "run", random.Random(number), calls, expected)


class Twice(TrainerCallback):
    """Two signals in one step: the user does not want to wait."""

    def __init__(self, event: str):
        def handler(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        setattr(self, event, handler)


@pytest.mark.parametrize("event", ["on_step_begin", "on_substep_end", "on_prediction_step", "on_log"])
def test_a_second_signal_aborts_at_once(event: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, save_steps=1)
    trainer.add_callback(Twice(event))
    with pytest.raises(KeyboardInterrupt) as stopped:
        trainer.train()
    assert not isinstance(stopped.value, Interrupted)
    assert trainer.state.global_step == 2, "it did not wait for the step"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert make(tmp_path, save_steps=1).train().global_step == 8, "the folder is free and its checkpoints are good"


class AtSave(TrainerCallback):
    """The first signal comes in the midst of a save, which is finished; training stops at the next boundary."""

    asked = 0

    def state_dict(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:  # a second one would end this process
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_signal_during_a_save(tmp_path: Path) -> None:
    trainer = make(tmp_path, save_strategy="no", load_best_model_at_end=False)
    save = TrainerCallback()
    save.on_step_end = lambda args, state, control, **kwargs: setattr(control, "should_save", state.global_step == 3)
    at_save = AtSave()
    for callback in (save, at_save):
        trainer.add_callback(callback)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 4"):
        trainer.train()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert at_save.asked == 1, "a save asks once for the state of a callback"
