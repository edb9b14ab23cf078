"""Saving in the background: what training computes and what is kept are those of saving in the foreground."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ironloom import Trainer, TrainerCallback
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.lock import RunLock
from ironloom.checkpoint.manifest import read_manifest, verify
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.errors import ConfigError, Interrupted
from tiny import Child, assert_same_weights, records, tiny_lm, tiny_trainer, uneven_samples, weights
from trainer.test_best_model import ScriptedLoss, kept


class Saves(TrainerCallback):
    """Notes at which step each checkpoint was acknowledged, and that it was complete then."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_save(self, args: Any, state: Any, control: Any, checkpoint: str, step: int, **kwargs: Any) -> None:
        assert verify(Path(checkpoint), deep=True) == []
        assert Path(checkpoint).name == f"checkpoint-{step}"
        self.seen.append((step, state.global_step))


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets every save take some seconds more than it does."""
    write = SharedFolder.write

    def slow(seconds: float) -> None:
        def later(self: Any, *args: Any) -> Any:
            time.sleep(seconds)
            return write(self, *args)

        monkeypatch.setattr(SharedFolder, "write", later)

    return slow


def train(folder: Path, *callbacks: Any, **args: Any) -> Any:
    trainer = tiny_trainer(folder, options={"callbacks": list(callbacks)}, **{"save_total_limit": None, "max_steps": 8, **args})
    trainer.train()
    return trainer


def test_the_same_run_and_the_same_checkpoints(tmp_path: Path, slow_disk: Callable[[float], None]) -> None:
    none, sync = train(tmp_path / "none", save_strategy="no"), train(tmp_path / "sync")
    slow_disk(0.05)
    background = train(tmp_path / "async", async_save=True)
    for other in (sync, background):
        assert records(other.state.log_history) == records(none.state.log_history)
        assert_same_weights(weights(other.model), weights(none.model))
    assert kept(tmp_path / "async") == kept(tmp_path / "sync") == [2, 4, 6, 8]
    for step in kept(tmp_path / "sync"):
        one, other = (read_manifest(tmp_path / kind / "checkpoints" / f"checkpoint-{step}") for kind in ("sync", "async"))
        assert one.info == other.info
        assert {name: entry.size for name, entry in one.files.items()} == {name: entry.size for name, entry in other.files.items()}
        resumed = [
            train(
                tmp_path / f"{kind} {step}",
                resume_from_checkpoint=tmp_path / kind / "checkpoints" / f"checkpoint-{step}",
                save_strategy="no",
            )
            for kind in ("sync", "async")
        ]
        for other in resumed:
            assert_same_weights(weights(other.model), weights(none.model))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, slow_disk: Callable[[float], None]) -> None:
    slow_disk(0.3)
    saves = Saves()
    train(tmp_path, saves, async_save=True, max_steps=40, save_steps=20)
    assert [step for step, _ in saves.seen] == [20, 40], "each once, in order"
    assert saves.seen[0][1] > 20, "told at a boundary after its own"
    assert saves.seen[1][1] == 40, "the last one before training ends"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("save-")]


@pytest.mark.parametrize("script", [[3.0, 1.0, 2.0, 2.5], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
def test_the_best_and_the_newest_stay(script: list[float], tmp_path: Path, slow_disk: Callable[[float], None]) -> None:
    slow_disk(0.02)
    results = []
    for async_save in (False, True):
        folder = tmp_path / str(async_save)
        args = {"output_dir": folder, "disable_tqdm": True, "max_steps": len(script), "eval_strategy": "steps", "eval_steps": 1}
        args |= {"save_steps": 1, "load_best_model_at_end": True, "save_total_limit": 1, "async_save": async_save, "learning_rate": 0.01}
        trainer = ScriptedLoss(tiny_lm(), args, train_dataset=uneven_samples(20), eval_dataset=uneven_samples(4))
        trainer.script = script
        trainer.train()
        results.append((kept(folder), Path(trainer.state.best_model_checkpoint or "").name, weights(trainer.model)))
    assert results[0][:2] == results[1][:2]
    assert_same_weights(results[0][2], results[1][2])


def lose(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let the disk refuse these saves, after a moment."""
    finish = SharedFolder.finish

    def refuse(self: Any, step: int, info: Any, written: Any, peers: Any) -> Path:
        time.sleep(0.02)
        if step in steps:
            written.failure = self._failure(step, OSError(28, "No space left on device"))
        return finish(self, step, info, written, peers)

    monkeypatch.setattr(SharedFolder, "finish", refuse)


def test_a_lost_checkpoint_is_a_warning_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(monkeypatch, 4)
    saves = Saves()
    trainer = train(tmp_path, saves, async_save=True)
    assert trainer.state.global_step == 8
    assert [step for step, _ in saves.seen] == kept(tmp_path) == [2, 6, 8]
    assert "step 4 could not be saved: No space left on device" in caplog.text and "training goes on" in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("lost", "best"), [((2,), "checkpoint-1"), ((1, 2), ""), ((2, 3), "checkpoint-1")])
def test_a_lost_checkpoint_is_not_the_best_one(lost: tuple[int, ...], best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, *lost)
    args = {"output_dir": tmp_path, "disable_tqdm": True, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    args |= {"load_best_model_at_end": True, "async_save": True, "save_total_limit": None}
    trainer = ScriptedLoss(tiny_lm(), args, train_dataset=uneven_samples(20), eval_dataset=uneven_samples(4))
    trainer.script = [3.0, 2.0, 1.0, 5.0] if 3 in lost else [3.0, 2.0, 5.0, 5.0]
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint or "").name == best


class At(TrainerCallback):
    def __init__(self, step: int, action: Callable[[], Any]):
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()


def test_a_signal_waits_for_the_checkpoint_in_flight_and_saves_at_once(tmp_path: Path, slow_disk: Callable[[float], None]) -> None:
    slow_disk(0.2)
    saves = Saves()
    with pytest.raises(Interrupted, match=r"after step 3: saved .*checkpoint-3"):
        train(tmp_path, saves, At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), async_save=True)
    assert kept(tmp_path) == [2, 3]
    assert [step for step, _ in saves.seen] == [2, 3]


def test_an_error_leaves_no_thread_that_writes_into_a_free_folder(tmp_path: Path, slow_disk: Callable[[float], None]) -> None:
    slow_disk(0.2)

    def fail() -> None:
        raise KeyError("of a callback")

    with pytest.raises(KeyError):
        train(tmp_path, At(3, fail), async_save=True)
    assert kept(tmp_path) == [2], "complete when train() has ended"
    with RunLock(tmp_path):
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("save-")]


def test_the_cost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ironloom")
    train(tmp_path, async_save=True, max_steps=2)
    (line,) = [record.getMessage() for record in caplog.records if "in the background" in record.getMessage()]
    size = read_manifest(tmp_path / "checkpoints" / "checkpoint-2").size
    number = int(line.split(" bytes")[0].split()[-1].replace(",", ""))
    assert 0.5 * size < number <= size
    assert "training waited" in line


def test_parts_of_tensors_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"fsdp_state_dict_type: 'local' has no place.*sharded"):
        Trainer(tiny_lm(), {"fsdp_state_dict_type": "local"})


def save_often(tell: Callable[[str], None], folder: Path, seed: int) -> None:
    class Tell(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, step: int, **kwargs: Any) -> None:
            tell(str(step))

    trainer = tiny_trainer(
        folder, tiny_lm(), options={"callbacks": [Tell()]}, max_steps=100_000, save_steps=1, async_save=True, resume_from_checkpoint=True
    )
    tell("ready")
    trainer.train()


def killed(folder: Path, num_kills: int) -> int:
    """Kill a run at random moments, each time going on from what is there; the number of saves that were under way."""
    chance, hits, last = random.Random(2), 0, -1
    for seed in range(num_kills):
        child = Child(save_often, folder, seed)
        lines = child.lines()
        assert next(lines) == "ready"
        time.sleep(chance.uniform(0.0, 0.3))
        child.kill(signal.SIGKILL)
        last = max([last, *(int(line) for line in lines)])
        child.end()
        latest = CheckpointFolder(folder / "checkpoints").latest(pytest.fail)
        assert (latest.step if latest else -1) >= last, "an acknowledged checkpoint is lost"
        hits += any(path.name.startswith(".checkpoint") for path in (folder / "checkpoints").glob(".*"))
    print(f"{num_kills} kills, {hits} during a save, the last acknowledged is step {last}")
    assert last > num_kills
    return hits


def test_five_kills(tmp_path: Path) -> None:
    killed(tmp_path, 5)


@pytest.mark.slow
def test_thirty_kills_leave_a_usable_latest(tmp_path: Path) -> None:
    assert killed(tmp_path, 30) > 3
