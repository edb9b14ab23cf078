"""Checkpoints of training with Accelerate are those of any other training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from accelerating import accel_trainer
from ironloom.trainer import AccelTrainer, Trainer
from spawned import run
from spread import decoder, whole
from tiny import assert_same_weights, losses, records, tiny_lm, uneven_samples, weights

KINDS: dict[str, Any] = {"accel": AccelTrainer, "native": Trainer}


def train(folder: Path, kind: str, size: int, steps: int, resume: bool = False, make: Any = decoder, **args: Any) -> Any:
    """Losses by step, full weights and moments, after ``steps`` of 8 steps."""

    def work() -> Any:
        trainer = accel_trainer(
            folder,
            make(),
            cls=KINDS[kind],
            per_device_train_batch_size=4 // size,
            max_steps=8,
            exit_steps=steps,
            lr_scheduler_type="constant",
            resume_from_checkpoint=resume,
            save_strategy="steps",
            save_steps=100,
            **args,
        )
        trainer.train_dataset = uneven_samples(40)
        trainer.train()
        moments = {name: whole(trainer.optimizer.state[weight]["exp_avg"]) for name, weight in trainer.model.named_parameters()}
        return records(trainer.state.log_history), weights(trainer.model), moments

    return work() if size == 1 else run(work, size)[-1]


QUICK = [("accel", 2, "native", 1), ("native", 1, "accel", 2)]
SLOW = [
    ("accel", 1, "native", 2),
    ("native", 2, "accel", 1),
    ("accel", 1, "accel", 2),
    ("accel", 2, "accel", 1),
    ("accel", 2, "native", 2),
    ("accel", 4, "accel", 2),
    ("native", 2, "accel", 4),
]


@pytest.mark.parametrize(("kind", "size", "then", "as_many"), [*QUICK, *(pytest.param(*way, marks=pytest.mark.slow) for way in SLOW)])
def test_a_run_goes_on_under_either_trainer_with_any_number_of_processes(
    kind: str, size: int, then: str, as_many: int, tmp_path: Path
) -> None:
    history, full, moments = train(tmp_path / "whole", "native", 1, 100)
    train(tmp_path / "parts", kind, size, 5)
    resumed, found, found_moments = train(tmp_path / "parts", then, as_many, 100, resume=True)
    expected = losses(history)
    assert [loss for _, loss in losses(resumed)] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    for name, value in full.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name
    for name, value in moments.items():
        assert torch.allclose(found_moments[name], value, rtol=1e-3, atol=1e-7), name


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("precision", [{}, pytest.param({"fp16": True}, marks=pytest.mark.slow)])
def test_the_same_processes_go_on_bit_by_bit(size: int, precision: dict[str, Any], tmp_path: Path) -> None:
    """With dropout. The sums of four processes depend on the order in which they are made, in a model that is not too small."""
    options: dict[str, Any] = {"make": lambda: tiny_lm(dropout=0.3, width=128), **precision}
    whole_run = train(tmp_path / "whole", "accel", size, 100, **options)
    train(tmp_path / "parts", "accel", size, 5, **options)
    resumed = train(tmp_path / "parts", "accel", size, 100, resume=True, **options)
    assert whole_run[0] == resumed[0]
    assert_same_weights(whole_run[1], resumed[1])
    assert_same_weights(whole_run[2], resumed[2])


def test_the_trained_model_is_the_bare_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def work() -> Any:
        trainer = accel_trainer(tmp_path, per_device_train_batch_size=2, bf16=True)
        model = trainer.model
        forward = model.forward.__func__
        trainer.train()
        trainer.save_model()
        assert trainer.model is model and trainer.unwrapped_model() is model and model.forward.__func__ is forward
        return weights(model)

    one, _ = run(work, 2)
    assert_same_weights(load_file(tmp_path / "model.safetensors"), one)
