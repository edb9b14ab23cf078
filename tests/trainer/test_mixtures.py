"""Training on a mixture: what its sources gave is in every record and survives a restart; several evaluation sets have a total."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironloom import TrainerCallback
from ironloom.data import Mixture, TokenBlocks
from ironloom.trainer import PreferenceTrainer
from preferring import pairs
from spawned import run
from spread import spread_over
from tiny import VOCABULARY, assert_same_weights, losses, records, tiny_lm, tiny_trainer, uneven_samples, weights

LENGTH = 12


def blocks(count: int, seed: int) -> TokenBlocks:
    return TokenBlocks(np.random.default_rng(seed).integers(0, VOCABULARY, count * LENGTH + 1), 0, count * LENGTH + 1, LENGTH)


def mixture() -> Mixture:
    """Twelve samples an epoch, which is no multiple of the period of ten."""
    return Mixture({"web": blocks(9, 0), "code": blocks(3, 1)}, {"web": 0.7, "code": 0.3})


def trained(folder: Path, train: Any, callbacks: Any = (), **args: Any) -> Any:
    trainer = tiny_trainer(folder, train=train, options={"callbacks": list(callbacks)}, **args)
    trainer.train()
    return trainer


def counts(trainer: Any) -> list[dict[str, float]]:
    """What the records say of the sources."""
    found = []
    for record in trainer.state.log_history:
        if "loss" in record:
            found.append(
                {key: value for key, value in record.items() if key.startswith(("samples_", "tokens_"))} | {"step": record["step"]}
            )
    return found


class Leave(TrainerCallback):
    """Leaves the run, or the epoch, at a step."""

    def __init__(self, step: int, flag: str = "should_training_stop"):
        self.step, self.flag = step, flag

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            setattr(control, self.flag, True)


def test_every_record_counts_the_samples_and_tokens_of_each_source(tmp_path: Path) -> None:
    mixed, seen = mixture(), []

    class Spy(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **kwargs: Any) -> None:
            read = mixed.__getitems__

            def watched(indices: list[int]) -> Any:
                seen.append(indices)
                return read(indices)

            train_dataloader._reader._read_many = watched

    trainer = trained(tmp_path, mixed, [Spy()], max_steps=20, include_num_input_tokens_seen="all")
    assert len(mixed) == 12
    code_at = {index for index in range(12) if index % 10 in (2, 5, 9)}
    for record, step in zip(counts(trainer), range(1, 21), strict=True):
        read = [index for batch in seen[:step] for index in batch]
        code = sum(index in code_at for index in read)
        expected = {"samples_web": len(read) - code, "samples_code": code, "step": step}
        assert record == {**expected, "tokens_web": (len(read) - code) * LENGTH, "tokens_code": code * LENGTH}
    last = trainer.state.log_history[-1]
    assert counts(trainer)[-1]["tokens_web"] + counts(trainer)[-1]["tokens_code"] == last["num_input_tokens_seen"]


@pytest.mark.parametrize("stop", [1, 7])
def test_a_run_that_goes_on_counts_and_learns_as_one_that_was_not_stopped(stop: int, tmp_path: Path) -> None:
    options = {"max_steps": 12, "logging_steps": 3, "save_steps": 1, "gradient_accumulation_steps": 2, "resume_from_checkpoint": True}
    whole = trained(tmp_path / "whole", mixture(), **options)
    trained(tmp_path / "parts", mixture(), [Leave(stop)], **options)
    parts = trained(tmp_path / "parts", mixture(), **options)
    assert counts(parts) == counts(whole)
    assert records(parts.state.log_history) == records(whole.state.log_history)
    assert_same_weights(weights(parts.model), weights(whole.model))
    assert counts(whole)[-1]["samples_web"] > 3 * 9, "several times around"


def test_an_epoch_that_is_left_early_counts_what_was_read(tmp_path: Path) -> None:
    trainer = trained(tmp_path, mixture(), [Leave(2, "should_epoch_stop")], max_steps=5)
    assert [sum(record[f"samples_{name}"] for name in ("web", "code")) for record in counts(trainer)] == [2, 4, 6, 8, 10]


def test_sources_that_each_come_once_are_trained_like_one_list(tmp_path: Path) -> None:
    samples = uneven_samples(16)
    one = trained(tmp_path / "one", samples)
    both = trained(tmp_path / "both", Mixture({"first": samples[:5], "second": samples[5:]}))
    assert losses(one.state.log_history) == losses(both.state.log_history)
    assert_same_weights(weights(one.model), weights(both.model))
    (last,) = counts(both)[-1:]
    assert last["samples_first"] + last["samples_second"] == 12
    assert "tokens_first" not in last, "a list does not know how long its samples are"
    assert not any(key.startswith("samples_") for key in one.state.log_history[-2])


def test_the_start_tells_what_is_mixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ironloom"):
        trained(tmp_path, mixture(), max_steps=1)
    assert f"training data: {mixture().described()}" in caplog.messages


def test_processes_count_what_all_of_them_have_read(tmp_path: Path) -> None:
    def part(folder: Path, size: int) -> Any:
        parameters = spread_over(dp_replicate=size) if size > 1 else None
        trainer = tiny_trainer(
            folder,
            tiny_lm(),
            mixture(),
            {"a": uneven_samples(5, seed=1), "b": uneven_samples(8, seed=2)},
            options={"device_parameters": parameters},
            per_device_train_batch_size=4 // size,
            max_steps=8,
            save_strategy="no",
        )
        trainer.train()
        found = trainer.evaluate()
        return counts(trainer), losses(trainer.state.log_history), [found[f"eval_{name}loss"] for name in ("", "a_", "b_")]

    alone = part(tmp_path / "alone", 1)
    for spread in run(part, 2, tmp_path / "spread", 2):
        assert spread[0] == alone[0]
        assert [loss for _, loss in spread[1]] == pytest.approx([loss for _, loss in alone[1]], rel=1e-5)
        assert spread[2] == pytest.approx(alone[2], rel=1e-5)


def test_the_total_of_several_sets_is_that_of_their_targets_together(tmp_path: Path) -> None:
    one, other = uneven_samples(7, seed=1), uneven_samples(10, seed=2)
    seen: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
            seen.append(metrics)

    trainer = tiny_trainer(tmp_path, tiny_lm(), evaluation={"loss": one, "b/c": other}, options={"callbacks": [Watch]})
    metrics = trainer.evaluate()
    together = trainer.evaluate([*one, *other])
    assert metrics["eval_loss"] == pytest.approx(together["eval_loss"], rel=1e-6)
    assert metrics["eval_loss_loss"] == pytest.approx(trainer.evaluate(one)["eval_loss"], rel=1e-6)
    assert metrics["eval_b/c_loss"] == pytest.approx(trainer.evaluate(other)["eval_loss"], rel=1e-6)
    assert metrics["eval_runtime"] == pytest.approx(metrics["eval_loss_runtime"] + metrics["eval_b/c_runtime"])
    assert len(seen) == 4, "once for all sets"
    assert seen[0] == metrics
    tested = trainer.evaluate({"x": one, "y": other}, metric_key_prefix="test")
    assert tested["test_loss"] == metrics["eval_loss"]
    unnamed = trainer.evaluate({"": one, "y": other})
    assert unnamed["eval_loss"] == metrics["eval_loss_loss"], "a set without a name has that key itself"


def test_several_sets_rank_checkpoints_and_move_schedules_by_their_total(tmp_path: Path) -> None:
    sets = {"one": uneven_samples(4, seed=1), "other": uneven_samples(6, seed=2)}
    trainer = tiny_trainer(
        tmp_path,
        evaluation=sets,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        lr_scheduler_type="reduce_lr_on_plateau",
    )
    trainer.train()
    totals = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert trainer.state.best_metric == min(totals)
    by_set = tiny_trainer(tmp_path / "by_set", evaluation=sets, eval_strategy="steps", eval_steps=2, metric_for_best_model="eval_one_loss")
    by_set.train()
    assert by_set.state.best_metric == min(record["eval_one_loss"] for record in by_set.state.log_history if "eval_one_loss" in record)


def test_a_metric_of_the_users_is_computed_for_each_set_and_covers_no_total(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, tiny_lm(), options={"compute_metrics": lambda given: {"rows": float(len(given.predictions))}})
    metrics = trainer.evaluate({"a": uneven_samples(3), "b": uneven_samples(5)})
    assert (metrics["eval_a_rows"], metrics["eval_b_rows"]) == (3, 5)
    assert "eval_rows" not in metrics
    assert math.isfinite(metrics["eval_loss"])


def test_pairs_are_mixed_with_their_reference(tmp_path: Path) -> None:
    samples = pairs(12)

    def tuned(folder: str, train: Any, **args: Any) -> Any:
        sgd = (torch.optim.SGD, {"lr": 0.2})
        values = {"output_dir": tmp_path / folder, "disable_tqdm": True, "max_steps": 6, "logging_steps": 1, "save_strategy": "no", **args}
        sets = {"eval_dataset": {"a": pairs(3, seed=1), "b": pairs(4, seed=2)}, "test_dataset": {"c": pairs(2, seed=3)}}
        trainer = PreferenceTrainer(
            tiny_lm(), values, train_dataset=train, optimizer_cls_and_kwargs=sgd, reference_cache=tmp_path / "cache", **sets
        )
        trainer.train()
        return trainer

    one, both = tuned("one", samples), tuned("both", Mixture({"first": samples[:5], "second": samples[5:]}))
    assert losses(one.state.log_history) == losses(both.state.log_history)
    mixed = tuned("mixed", Mixture({"first": samples[:5], "second": samples[5:]}, {"first": 3}))
    assert counts(mixed)[-1]["samples_first"] == 3 * counts(mixed)[-1]["samples_second"] > 5
    metrics = mixed.evaluate()
    both_sets = (3 * metrics["eval_a_rewards/accuracies"] + 4 * metrics["eval_b_rewards/accuracies"]) / 7
    assert metrics["eval_rewards/accuracies"] == pytest.approx(both_sets)
    assert "test_c_loss" in mixed.evaluate(mixed.test_dataset, metric_key_prefix="test")


def test_another_mixture_is_gone_on_with_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"save_steps": 2, "resume_from_checkpoint": True}
    trained(tmp_path, mixture(), max_steps=4, **options)
    other = Mixture(mixture().sources, {"web": 0.2, "code": 0.8})
    trainer = trained(tmp_path, other, max_steps=44, **options)
    (told,) = (message for message in caplog.messages if "mixed in another way" in message)
    assert "(web 1 of 9, code 4 of 3)" in told and "(web 7 of 9, code 3 of 3)" in told
    before, after = counts(trainer)[3], counts(trainer)[-1]
    assert (after["samples_web"] - before["samples_web"]) / 80 == pytest.approx(0.2, abs=0.02)
    caplog.clear()
    trained(tmp_path, other, max_steps=45, **options)
    assert not any("mixed in another way" in message for message in caplog.messages)
