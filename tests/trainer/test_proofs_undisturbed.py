"""Whatever happens beside training, at whatever interval, the trained weights are the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ironloom import Trainer, TrainerCallback
from tiny import RandomSamples, TinyLM, assert_same_weights, records, tiny_trainer, uneven_samples, weights


class Normed(TinyLM):
    """Has statistics that an evaluation must not touch, dropout, and a part that is frozen in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.batch_norm = nn.BatchNorm1d(16)
        self.frozen = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.BatchNorm1d(16))

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden, _ = self.mix(self.embed(input_ids))
        rows = self.batch_norm(hidden.reshape(-1, 16))
        return {"logits": self.head(self.dropout(self.norm(rows + self.frozen(rows)))).reshape(*input_ids.shape, -1)}


class Freeze(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        model.frozen.eval()


class Disturb(TrainerCallback):
    """Draws, seeds, and generates with the model, leaving it in evaluation mode."""

    def __init__(self, every: int = 1, leave: bool = True):
        self.every, self.leave = every, leave

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            if self.leave:
                model.eval()
            with torch.no_grad():
                model(torch.randint(31, (2, 4)))
            torch.manual_seed(1), np.random.seed(1), random.seed(1)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.rand(3), torch.manual_seed(3)

    on_pre_optimizer_step = on_evaluate = on_save = on_log = on_prediction_step = on_epoch_begin = on_substep_end


def final(folder: Path, model: Any = Normed, callbacks: Any = (Freeze,), **args: Any) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = model()
    options = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 7,
        "save_strategy": "no",
        "logging_strategy": "no",
        **args,
    }
    trainer: Trainer = tiny_trainer(folder, model=made, train=RandomSamples(20), options={"callbacks": list(callbacks)}, **options)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(final(tmp_path_factory.mktemp("quiet")).model)


strategies = st.fixed_dictionaries(
    {
        "logging_strategy": st.sampled_from(["no", "steps", "epoch"]),
        "logging_steps": st.integers(1, 8),
        "logging_first_step": st.booleans(),
        "eval_strategy": st.sampled_from(["no", "steps", "epoch"]),
        "eval_steps": st.integers(1, 8),
        "eval_on_start": st.booleans(),
        "per_device_eval_batch_size": st.integers(1, 7),
        "save_strategy": st.sampled_from(["no", "steps", "epoch"]),
        "save_steps": st.integers(1, 8),
        "save_total_limit": st.sampled_from([1, 2, None]),
        "dataloader_num_workers": st.sampled_from([0, 0, 0, 0, 2]),
        "grad_norm_log_interval": st.sampled_from([None, "log", "checkpoint"]),
        "param_norm_log_interval": st.sampled_from([None, "log", "checkpoint"]),
        "metric_for_best_model": st.sampled_from([None, "loss"]),
    }
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=strategies)
def test_any_mixture_of_evaluating_logging_and_saving(
    args: dict[str, Any], quiet: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_same_weights(quiet, weights(final(tmp_path_factory.mktemp("loud"), **args).model))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=strategies)
def test_very_many_mixtures(args: dict[str, Any], quiet: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_same_weights(quiet, weights(final(tmp_path_factory.mktemp("loud"), **args).model))


def test_a_part_in_evaluation_mode_stays_there(tmp_path: Path) -> None:
    """A frozen encoder must not wake up, with dropout and moving statistics, after the first evaluation."""
    trainer = final(tmp_path, eval_strategy="steps", eval_steps=1)
    assert not any(module.training for module in trainer.model.frozen.modules())
    assert trainer.model.training and trainer.model.batch_norm.training
    assert int(trainer.model.frozen[2].num_batches_tracked) == 0


@pytest.mark.parametrize("leave", [True, False])
def test_a_callback_that_seeds_generates_and_leaves_the_model_in_evaluation_mode(leave: bool, tmp_path: Path) -> None:
    """As in transformers every step trains, whatever mode a callback left. (A model that runs in training mode has other statistics.)"""
    plain = final(tmp_path / "plain", model=lambda: TinyLM(dropout=0.3), callbacks=())
    disturbed = final(
        tmp_path / "disturbed",
        model=lambda: TinyLM(dropout=0.3),
        callbacks=(Disturb(leave=leave),),
        eval_strategy="steps",
        eval_steps=2,
        logging_strategy="steps",
        save_strategy="steps",
    )
    assert_same_weights(weights(plain.model), weights(disturbed.model))


class Evaluates(TrainerCallback):
    """Calls the trainer's own methods in the midst of training."""

    trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.evaluate(uneven_samples(3), metric_key_prefix="mine")
        self.trainer.predict(uneven_samples(3))

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.evaluate(uneven_samples(5))


def test_evaluating_and_predicting_by_hand_within_a_step(quiet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Neither the weights nor what the trainer evaluates and saves by itself change."""
    found = []
    for name in ("without", "with"):
        callback = Evaluates()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Normed()
        trainer = tiny_trainer(
            tmp_path / name,
            model=model,
            train=RandomSamples(20),
            options={"callbacks": [Freeze, callback] if name == "with" else [Freeze]},
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
            max_steps=7,
            eval_strategy="steps",
            eval_steps=3,
            logging_steps=2,
            load_best_model_at_end=True,
            save_steps=3,
        )
        callback.trainer = trainer
        trainer.train()
        own = [record for record in records(trainer.state.log_history) if "loss" in record]
        found.append((own, trainer.state.best_metric, trainer.state.best_global_step))
    assert found[0] == found[1]


def test_evaluation_repeats_itself_and_ignores_where_training_is(tmp_path: Path) -> None:
    trainer = final(tmp_path)
    torch.manual_seed(0)
    first = trainer.evaluate()["eval_loss"]
    torch.manual_seed(1)
    assert trainer.evaluate()["eval_loss"] == first


class Noisy(torch.optim.SGD):
    """Draws in its step, as Langevin dynamics and stochastic rounding do."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"]).add_(torch.randn_like(parameter), alpha=1e-3)


def test_an_optimizer_that_draws_is_not_disturbed_either(tmp_path: Path) -> None:
    def run(folder: Path, *callbacks: Any) -> Trainer:
        sgd = {"optimizer_cls_and_kwargs": (Noisy, {"lr": 0.1}), "callbacks": list(callbacks)}
        trainer: Trainer = tiny_trainer(folder, options=sgd, save_strategy="no")
        trainer.train()
        return trainer

    assert_same_weights(weights(run(tmp_path / "a").model), weights(run(tmp_path / "b", Disturb(leave=False)).model))
