"""Saving in the background by several processes: the same run, the same checkpoints, and failures that are everybody's."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import TrainerCallback
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.errors import Interrupted
from ironloom.weights import load_weights
from parallel.test_checkpoint_kills import kill_me_after
from spawned import run
from spread import decoder, spread_over, whole
from tiny import records, tiny_trainer

RANK = "RANK"


class Told(TrainerCallback):
    """The checkpoints that were acknowledged, and at which step."""

    def __init__(self, file: Path | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self.file = file

    def on_save(self, args: Any, state: Any, control: Any, step: int, **kwargs: Any) -> None:
        self.seen.append((step, state.global_step))
        if self.file is not None:
            with open(f"{self.file}-{os.environ[RANK]}", "a") as file:
                file.write(f"{step}\n")


class Stop(TrainerCallback):
    """A signal to one process."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and os.environ[RANK] == "1":
            os.kill(os.getpid(), signal.SIGTERM)


def made(folder: Path, callbacks: list[Any], **args: Any) -> Any:
    options = {"device_parameters": spread_over(dp_shard=2), "callbacks": callbacks}
    return tiny_trainer(folder, decoder(), options=options, **{"per_device_train_batch_size": 1, "save_total_limit": None, **args})


def slow_down(rank: int, seconds: float, refused: int | None = None) -> None:
    """Lets the disk of one process take its time, and refuse one save; called in the processes, which end after the test."""
    write = SharedFolder.write

    def later(self: Any, step: int, *args: Any) -> Any:
        outcome = write(self, step, *args)
        if os.environ[RANK] == str(rank):
            time.sleep(seconds)
            if step == refused:
                outcome.failure = self._failure(step, OSError(28, "No space left on device"))
        return outcome

    SharedFolder.write = later  # type: ignore[method-assign]


def trained(folder: Path, refused: int | None = None, stop: bool = False, **args: Any) -> Any:
    slow_down(1, 0.1, refused)
    told = Told()
    trainer = made(folder, [told, *([Stop()] if stop else [])], **args)
    if stop:
        with pytest.raises(Interrupted, match=r"saved .*checkpoint-3"):
            trainer.train()
    else:
        trainer.train()
    return records(trainer.state.log_history), {name: whole(value) for name, value in trainer.model.named_parameters()}, told.seen


def kept(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in CheckpointFolder(folder / "checkpoints").complete()]


def test_the_same_run_and_the_same_checkpoints(tmp_path: Path) -> None:
    sync = run(lambda: trained(tmp_path / "sync"), 2)
    background = run(lambda: trained(tmp_path / "async", async_save=True), 2)
    for one, other in zip(sync, background, strict=True):
        assert one[0] == other[0]
        assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    assert background[0][2] == background[1][2], "every process is told at the same boundary"
    assert [step for step, _ in background[0][2]] == kept(tmp_path / "async") == kept(tmp_path / "sync") == [2, 4, 6]
    for step in (2, 4, 6):
        models = [decoder(), decoder()]
        for kind, model in zip(("sync", "async"), models, strict=True):
            load_weights(tmp_path / kind / "checkpoints" / f"checkpoint-{step}", model)
        assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_a_disk_that_is_full_for_one_process_costs_all_one_checkpoint(tmp_path: Path) -> None:
    one, other = run(lambda: trained(tmp_path, refused=4, async_save=True), 2)
    assert one[2] == other[2]
    assert [step for step, _ in one[2]] == kept(tmp_path) == [2, 6]


def test_a_signal_to_one_process_waits_for_the_checkpoint_in_flight(tmp_path: Path) -> None:
    for result in run(lambda: trained(tmp_path, stop=True, async_save=True), 2):
        assert [step for step, _ in result[2]] == [2, 3]
    assert kept(tmp_path) == [2, 3]


class KillMe(TrainerCallback):
    """A kill, some time after the first checkpoint: who is killed while processes meet is the launcher's business."""

    def __init__(self, delay: float):
        self.delay, self.armed = delay, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.armed:
            kill_me_after(self.delay)
        self.armed = True


def save_often(folder: Path, victims: tuple[int, ...], delay: float, async_save: bool) -> None:
    callbacks: list[Any] = [Told(folder / "told"), *([KillMe(delay)] if int(os.environ[RANK]) in victims else [])]
    args = {"async_save": async_save, "save_steps": 1, "max_steps": 100_000, "resume_from_checkpoint": True, "save_total_limit": 2}
    made(folder, callbacks, **args).train()


def killed(folder: Path, num_kills: int, async_save: bool) -> None:
    """Kill one process or both at random moments of a run that saves every step, each time going on from what is there."""
    chance, hits, last = random.Random(3), 0, -1
    folder.mkdir()
    for number in range(num_kills):
        victims = [(0,), (1,), (0, 1)][number % 3]
        with pytest.raises(AssertionError) as ended:
            run(save_often, 2, folder, victims, chance.uniform(0.0, 0.8), async_save, timeout=40)
        story = str(ended.value)
        assert "died without a word, exit code -9" in story
        assert "is not done" not in story, f"who was not killed must end, and say why:\n{story}"
        told = [int(line) for file in folder.glob("told-*") for line in file.read_text().split()]
        last = max([last, *told])
        latest = CheckpointFolder(folder / "checkpoints").latest(pytest.fail)
        assert (latest.step if latest else -1) >= last, "an acknowledged checkpoint is lost"
        hits += any(path.name.startswith(".checkpoint") for path in (folder / "checkpoints").glob(".*"))
    print(f"{num_kills} kills, {hits} during a save, the last acknowledged is step {last}")
    assert last > num_kills / 2 and hits > num_kills / 10, "too few saves for the kills to mean something"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("async_save", [False, True])
def test_thirty_kills_of_a_run(async_save: bool, tmp_path: Path) -> None:
    killed(tmp_path / "run", 30, async_save)
