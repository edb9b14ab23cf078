"""Checkpoints by a metric: which exist at the end, and which one a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ironloom import TrainerCallback
from ironloom.callbacks import CheckpointCallback
from ironloom.configs import CheckpointParameters
from tiny import tiny_trainer

#: The metric at steps 1 to 6.
VALUES = {1: 5.0, 2: 3.0, 3: 4.0, 4: 1.0, 5: 2.0, 6: 6.0}


def run(folder: Path, callback: Any, values: dict[int, float] | None = None, **args: Any) -> Any:
    holder: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        return {"score": (values or VALUES)[holder[0].state.global_step]}

    options = {"callbacks": [callback], "compute_metrics": metrics}
    values_of_run = {"save_strategy": "no", "eval_strategy": "steps", "eval_steps": 1, "save_total_limit": None, **args}
    holder.append(tiny_trainer(folder, options=options, **values_of_run))
    holder[0].train()
    return holder[0]


def steps(trainer: Any) -> list[int]:
    return [checkpoint.step for checkpoint in trainer.checkpoints.complete()]


@pytest.mark.parametrize(("mode", "expected"), [("min", [1, 2, 4]), ("max", [1, 6])])
def test_every_new_best_is_saved(mode: Any, expected: list[int], tmp_path: Path) -> None:
    trainer = run(tmp_path, CheckpointCallback(monitor="val_score", mode=mode))
    assert steps(trainer) == expected
    assert trainer.state.best_global_step == expected[-1]
    assert trainer.state.best_model_checkpoint == str(trainer.checkpoints.path(expected[-1]))


def test_the_best_and_the_newest_are_kept(tmp_path: Path) -> None:
    parameters = CheckpointParameters(monitor="val_score", mode="min", checkpoint_every_n_steps=1, keep_top_k=2)
    assert steps(run(tmp_path, CheckpointCallback(parameters), save_total_limit=2)) == [4, 5, 6]


def test_the_best_are_known_after_a_restart(tmp_path: Path) -> None:
    def parameters() -> CheckpointParameters:
        return CheckpointParameters(monitor="val_score", mode="min", checkpoint_every_n_steps=1, keep_top_k=2)

    run(tmp_path, CheckpointCallback(parameters()), max_steps=3)
    assert steps(run(tmp_path, CheckpointCallback(parameters()))) == [4, 5, 6]
    falling = {step: float(step) for step in range(1, 7)}
    run(tmp_path / "falling", CheckpointCallback(parameters()), falling, max_steps=3)
    assert steps(run(tmp_path / "falling", CheckpointCallback(parameters()), falling)) == [1, 2, 6]


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        ({"checkpoint_every_n_steps": 4}, [4]),
        ({"checkpoint_every_n_epochs": 2}, [16]),
        ({"checkpoint_every_n_val_epochs": 3}, [3, 6]),
        ({}, []),
        ({"enable": False}, []),
    ],
)
def test_cadences(cadence: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    """16 samples in batches of two: 8 steps an epoch."""
    by_epoch = not cadence or "checkpoint_every_n_epochs" in cadence
    args = {"max_steps": 17, "eval_strategy": "no"} if by_epoch else {}
    assert steps(run(tmp_path, CheckpointCallback(CheckpointParameters(**cadence)), **args)) == expected


def test_it_saves_besides_what_the_arguments_ask_for(tmp_path: Path) -> None:
    trainer = run(tmp_path, CheckpointCallback(monitor="val_score", mode="min"), save_strategy="steps", save_steps=3)
    assert steps(trainer) == [1, 2, 3, 4, 6]


class Started(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step


@pytest.mark.parametrize(("resume", "expected"), [({}, 6), ({"resume_mode": "best"}, 4), ({"resume_mode": "min"}, 4)])
def test_which_checkpoint_a_run_goes_on_from(resume: dict[str, Any], expected: int, tmp_path: Path) -> None:
    every = {"monitor": "val_score", "checkpoint_every_n_steps": 1, "mode": "min"}
    run(tmp_path, CheckpointCallback(CheckpointParameters(**every)))
    started = Started()
    callback = CheckpointCallback(CheckpointParameters(**every, **resume))
    trainer = tiny_trainer(tmp_path, options={"callbacks": [callback, started]}, eval_strategy="no", eval_on_start=True, max_steps=expected)
    trainer.train()
    assert started.step == expected
    path = trainer.checkpoints.path(3)
    again = tiny_trainer(tmp_path, options={"callbacks": [CheckpointCallback(CheckpointParameters(resume_path=str(path)))]})
    assert again.args.resume_from_checkpoint == str(path)


def test_only_weights(tmp_path: Path) -> None:
    for only, expected in ((True, False), (False, True)):
        parameters = CheckpointParameters(checkpoint_every_n_steps=6, model_weights_only=only)
        trainer = run(tmp_path / str(only), CheckpointCallback(parameters), save_optimizer_state=not expected)
        assert (trainer.checkpoints.path(6) / "optimizer.json").exists() is expected


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = CheckpointCallback(CheckpointParameters(root_dir="there"))
    assert tiny_trainer("tmp_trainer", options={"callbacks": [there]}).args.output_dir == "there"
    assert tiny_trainer("there/run", options={"callbacks": [there]}).args.output_dir == "there/run"
    with pytest.raises(ValueError, match="root_dir"):
        tiny_trainer("elsewhere", options={"callbacks": [there]})


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gives no 'eval_acuracy'; it gives eval_loss"):
        run(tmp_path, CheckpointCallback(monitor="val_acuracy", mode="max"))
    with pytest.raises(ValueError, match="set eval_strategy"):
        run(tmp_path, CheckpointCallback(monitor="val_loss", mode="min"), eval_strategy="no")
    with pytest.raises(ValueError, match="train/loss"):
        CheckpointCallback(monitor="train/loss")
    with pytest.raises(ValueError, match="mode"):
        CheckpointCallback(monitor="val_loss", mode="least")
    with pytest.raises(ValueError, match="not both"):
        CheckpointCallback(CheckpointParameters(), monitor="val_loss")
    with pytest.raises(ValueError, match="CheckpointParameters"):
        CheckpointCallback("val_loss")


def test_a_test_after_training_is_no_validation(tmp_path: Path) -> None:
    trainer = run(tmp_path, CheckpointCallback(monitor="val_loss", mode="min"))
    assert "test_loss" in trainer.evaluate(metric_key_prefix="test")
