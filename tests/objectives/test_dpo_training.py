"""Training on pairs: exact logs whatever the batches, one model, a reference that is computed once and found by content."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ironloom.data.preferences import collate_pairs
from ironloom.errors import ConfigError
from ironloom.trainer import PreferenceTrainer
from ironloom.trainer.engine import NativeEngine
from preferring import pairs, referenced, two_models
from spawned import run
from spread import spread_over
from tiny import assert_same_weights, tiny_lm, weights

REPORTED = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")


def trainer(folder: Path, model=None, train=None, options=None, **args) -> PreferenceTrainer:
    values = {
        "output_dir": folder / "out",
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "max_steps": 4,
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": None,
        "eval_strategy": "no",
        "save_strategy": "no",
        **args,
    }
    sgd = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.2})}  # no update of it is larger than its gradient says
    given = {**sgd, "beta": 0.5, "reference_cache": folder / "cache", "eval_dataset": pairs(5, seed=1), **(options or {})}
    return PreferenceTrainer(tiny_lm() if model is None else model, values, train_dataset=pairs(12) if train is None else train, **given)


def logs(done, *names):
    """Of each step; what comes first is all 0 but for rounding: the model is its own reference."""
    return [{name: record[name] for name in names} for record in done.state.log_history if names[0] in record]


@pytest.fixture
def forwards(monkeypatch):
    """How many forward passes the reference took."""
    counted = []
    predict = NativeEngine.predict
    monkeypatch.setattr(NativeEngine, "predict", lambda self, batch: counted.append(batch) or predict(self, batch))
    return counted


def test_losses_and_reports_are_those_of_two_models_and_the_same_under_accumulation(tmp_path):
    done = trainer(tmp_path, per_device_train_batch_size=6)
    reference = copy.deepcopy(done.model)
    done.train()
    parts = trainer(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=6)
    parts.train()
    for one, other in zip(logs(done, "loss", *REPORTED)[1:], logs(parts, "loss", *REPORTED)[1:], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    metrics = done.evaluate()
    samples = pairs(5, seed=1)
    expected = [two_models(done.model, reference, sample, "sigmoid", 0.5, 0.0) for sample in samples]
    chosen, rejected = (np.array([rewards[side] for _, rewards in expected]) for side in (0, 1))
    assert metrics["eval_loss"] == pytest.approx(np.mean([loss.item() for loss, _ in expected]), abs=1e-6)
    assert metrics["eval_rewards/chosen"] == pytest.approx(chosen.mean(), abs=1e-5)
    assert metrics["eval_rewards/accuracies"] == pytest.approx((chosen > rejected).mean())
    assert metrics["eval_rewards/margins"] == pytest.approx((chosen - rejected).mean(), abs=1e-5)


def test_a_step_is_that_of_two_models(tmp_path):
    model, samples = tiny_lm(), pairs(4)
    reference, twin = copy.deepcopy(model), copy.deepcopy(model)
    trainer(tmp_path, model, samples, per_device_train_batch_size=4, max_steps=3).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        (sum(two_models(twin, reference, sample, "sigmoid", 0.5, 0.0)[0] for sample in samples) / 4).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_second_run_computes_no_reference_and_trains_the_same(tmp_path, forwards):
    first = trainer(tmp_path)
    first.train()
    assert len(forwards) == 4 + 2  # 12 pairs to train on and 5 to evaluate on, 3 at a time
    second = trainer(tmp_path)
    second.train()
    assert len(forwards) == 6
    assert logs(first, "loss", *REPORTED) == logs(second, "loss", *REPORTED)
    assert_same_weights(weights(first.model), weights(second.model))


@pytest.mark.parametrize("change", ["weights", "token", "label", "dtype", "kernel"])
def test_whatever_the_reference_depends_on_makes_another_one(tmp_path, forwards, change):
    samples, options = pairs(3), {"eval_dataset": None}
    trainer(tmp_path, train=samples, options=options, max_steps=1).train()
    assert len(forwards) == 1
    model, args = tiny_lm(), {}
    if change == "weights":
        with torch.no_grad():
            model.head.bias[0] += 1e-3
    elif change == "token":
        samples[2]["rejected_ids"][0] += 1
    elif change == "label":
        samples[2]["rejected_labels"][-1] = -100
    else:
        args = {"dtype": {"bf16": True}, "kernel": {"attention_kernel": "math"}}[change]
    trainer(tmp_path, model, samples, options, max_steps=1, **args).train()
    assert len(forwards) == 2


@pytest.mark.parametrize("damage", ["value", "cut", "meta", "gone"])
def test_a_damaged_entry_is_told_and_computed_anew(tmp_path, forwards, damage, caplog):
    options = {"eval_dataset": None}
    first = trainer(tmp_path, options=options)
    first.train()
    (folder,) = (tmp_path / "cache/reference").iterdir()
    values = folder / "logps.bin"
    if damage == "value":
        content = bytearray(values.read_bytes())
        content[5] ^= 1
        values.write_bytes(content)
    elif damage == "cut":
        values.write_bytes(values.read_bytes()[:-8])
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        values.unlink()
    second = trainer(tmp_path, options=options)
    second.train()
    assert "damaged" in caplog.text
    assert len(forwards) == 8
    assert logs(first, "loss") == logs(second, "loss")
    assert json.loads((folder / "meta.json").read_text())["pairs"] == 12


def test_the_reference_is_the_model_before_training_and_not_another(tmp_path):
    done = trainer(tmp_path, options={"test_dataset": pairs(3, seed=2)})
    reference = copy.deepcopy(done.model)
    done.train()
    found = done.evaluate(pairs(3, seed=2), metric_key_prefix="test")
    expected = [two_models(done.model, reference, sample, "sigmoid", 0.5, 0.0)[0].item() for sample in pairs(3, seed=2)]
    assert found["test_loss"] == pytest.approx(np.mean(expected), abs=1e-6)
    with pytest.raises(ConfigError, match="give them as test_dataset"):
        done.evaluate(pairs(3, seed=3))


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1, "save_optimizer_state": True, "save_scheduler_state": True, "logging_steps": 3}
    whole = trainer(tmp_path, output_dir=tmp_path / "whole", **saved)
    whole.train()
    begun = trainer(tmp_path, output_dir=tmp_path / "parts", **saved, exit_steps=2)
    begun.train()
    assert begun.state.global_step == 2
    rest = trainer(tmp_path, output_dir=tmp_path / "parts", **saved)
    rest.train(resume_from_checkpoint=True)
    assert_same_weights(weights(whole.model), weights(rest.model))
    assert logs(whole, "loss", *REPORTED) == logs(rest, "loss", *REPORTED)


def _shared(folder: str, sharded: bool):
    torch.set_num_threads(1)
    counted = []
    predict = NativeEngine.predict
    NativeEngine.predict = lambda self, batch: counted.append(1) or predict(self, batch)
    parameters = spread_over(**{"dp_shard" if sharded else "dp_replicate": 2})
    done = trainer(Path(folder), per_device_train_batch_size=3, options={"device_parameters": parameters})
    done.train()
    return logs(done, "loss", *REPORTED), done.evaluate(), len(counted)


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_share_the_work_and_report_what_one_does(tmp_path, sharded):
    alone = trainer(tmp_path / "one", per_device_train_batch_size=6)
    alone.train()
    metrics = alone.evaluate()
    for found, evaluated, forwards in run(_shared, 2, str(tmp_path / "two"), sharded):
        for one, other in zip(logs(alone, "loss", *REPORTED)[1:], found[1:], strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        for name in ("loss", *REPORTED):
            assert evaluated[f"eval_{name}"] == pytest.approx(metrics[f"eval_{name}"], abs=1e-5)
        assert forwards == 3  # of 4 + 2


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="compute_loss_func"):
        trainer(tmp_path, options={"compute_loss_func": lambda *_, **__: None})
    assert collate_pairs(referenced(tiny_lm(), pairs(2)))["reference"].shape == (2, 2)
