"""Runs with Accelerate that are compared with runs without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported before the processes are forked, which would each need seconds for it.
import accelerate
import accelerate.utils

from ironloom.trainer import AccelTrainer, Trainer
from spread import GLOBAL_BATCH, Result
from tiny import tiny_lm, tiny_trainer, uneven_samples

Made = Callable[[], accelerate.Accelerator]


def on_cpu(**options: Any) -> Made:
    """What makes an Accelerator of its own, as a user would."""
    return lambda: accelerate.Accelerator(cpu=True, **options)


def accel_trainer(folder: Path, model: Any = None, accelerator: Made | None = None, cls: Any = AccelTrainer, **args: Any) -> Any:
    """The trainer of a run that ``spread.train`` does without Accelerate."""
    values = {
        "gradient_accumulation_steps": 2,
        "max_steps": 20,
        "save_strategy": "no",
        "grad_norm_log_interval": "log",
        "max_grad_norm": 0.5,
        "adam_epsilon": 1e-4,
        **args,
    }
    options = {} if accelerator is None else {"accelerator": accelerator()}
    return tiny_trainer(folder, tiny_lm() if model is None else model, uneven_samples(23), options=options, cls=cls, **values)


def accelerated(make: Any, size: int, accelerator: Made | None = None, **args: Any) -> Result:
    """What ``spread.train`` does, with the other trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = accel_trainer(Path(folder), make(), accelerator, per_device_train_batch_size=GLOBAL_BATCH // size, **args)
        trainer.train()
        return Result(trainer)


def without(make: Any, size: int, **args: Any) -> Result:
    """The same with :class:`Trainer`."""
    return accelerated(make, size, cls=Trainer, **args)
