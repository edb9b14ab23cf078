"""Evaluating, logging, saving, generating, reading with workers: the trained weights are the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironloom import Trainer, TrainerCallback
from tiny import RandomSamples, assert_same_weights, tiny_lm, uneven_samples, weights


class DrawsNumbers(TrainerCallback):
    """A callback that uses up the global generators wherever it can."""

    def _draw(self, *args: Any, **kwargs: Any) -> None:
        random.random(), np.random.random(), torch.rand(3)

    on_step_begin = on_step_end = on_substep_end = on_log = on_evaluate = on_save = on_prediction_step = on_epoch_begin = _draw


def final_weights(folder: Path, *callbacks: Any, **args: Any) -> dict[str, torch.Tensor]:
    options = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "logging_strategy": "no",
        **args,
    }
    trainer = Trainer(
        tiny_lm(dropout=0.3), options, train_dataset=RandomSamples(20), eval_dataset=uneven_samples(6), callbacks=list(callbacks)
    )
    trainer.train()
    return weights(trainer.model)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return final_weights(tmp_path_factory.mktemp("quiet"))


VARIANTS: list[dict[str, Any]] = [
    {"logging_strategy": "steps", "logging_steps": 1, "logging_first_step": True},
    {"eval_strategy": "steps", "eval_steps": 1},
    {"eval_strategy": "epoch", "eval_on_start": True, "per_device_eval_batch_size": 1},
    {"save_strategy": "steps", "save_steps": 1, "save_optimizer_state": True, "save_scheduler_state": True},
    {"save_strategy": "epoch", "eval_strategy": "epoch", "metric_for_best_model": "loss"},
    {"dataloader_num_workers": 2},
    {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3},
    {"grad_norm_log_interval": "log", "param_norm_log_interval": "log", "logging_strategy": "steps", "logging_steps": 2},
    {"report_memory": True, "include_num_input_tokens_seen": True, "disable_tqdm": False},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: ",".join(variant))
def test_the_same_weights(variant: dict[str, Any], quiet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_same_weights(quiet, final_weights(tmp_path, **variant))


def test_a_callback_that_draws_numbers(quiet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    noisy = final_weights(tmp_path, DrawsNumbers, eval_strategy="steps", eval_steps=2, logging_strategy="steps", logging_steps=1)
    assert_same_weights(quiet, noisy)


def test_the_seed_does_change_them(quiet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        assert_same_weights(quiet, final_weights(tmp_path, seed=7))


def test_data_seed_changes_the_order_only(tmp_path: Path) -> None:
    def order(**args: Any) -> list[list[int]]:
        trainer = Trainer(
            tiny_lm(),
            {"output_dir": tmp_path, "per_device_train_batch_size": 4, "max_steps": 1, "save_strategy": "no", **args},
            train_dataset=uneven_samples(12),
        )
        trainer.train()
        return [batch["input_ids"].tolist() for batch in trainer.train_dataloader.iterate(0)]

    assert order(seed=1, data_seed=5) == order(seed=2, data_seed=5) != order(seed=1, data_seed=6)
