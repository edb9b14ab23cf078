"""Training with Accelerate computes what one process does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from ironloom.trainer import AccelTrainer
from spawned import run
from spread import GLOBAL_BATCH, MODELS, Result, largest_error, train
from tiny import tiny_trainer, uneven_samples


def accelerated(make: Any, size: int, accelerator: Any = None, **args: Any) -> Result:
    """What ``spread.train`` does, with the other trainer."""
    values = {
        "per_device_train_batch_size": GLOBAL_BATCH // size,
        "gradient_accumulation_steps": 2,
        "max_steps": 20,
        "save_strategy": "no",
        "grad_norm_log_interval": "log",
        "max_grad_norm": 0.5,
        "adam_epsilon": 1e-4,
        **args,
    }
    with tempfile.TemporaryDirectory() as folder:
        options = {"accelerator": None if accelerator is None else accelerator()}
        trainer = tiny_trainer(Path(folder), make(), uneven_samples(23), options=options, cls=AccelTrainer, **values)
        trainer.train()
        return Result(trainer)


@pytest.mark.parametrize("name", ["tiny", "decoder"])
def test_two_processes_compute_what_one_does(name: str) -> None:
    make = MODELS[name]
    alone = train(make, None, 1)
    for result in run(lambda: accelerated(make, 2), 2):
        assert largest_error(alone, result) < 1e-5
