"""Several processes behave as one run: what is decided, logged, evaluated and saved."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import TrainerCallback
from ironloom.callbacks.textgen_callback import TextgenCallback
from ironloom.checkpoint.lock import RunLock
from ironloom.errors import ConfigError, Interrupted, ResourceError
from spawned import run
from spread import decoder, spread_over
from tiny import assert_same_weights, losses, records, tiny_lm, tiny_trainer, uneven_samples, weights


class OnRank(TrainerCallback):
    """Does something at the end of a step, in one process only."""

    def __init__(self, rank: int, step: int, action: Any):
        self.rank, self.step, self.action = rank, step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if int(os.environ["RANK"]) == self.rank and state.global_step == self.step:
            self.action(control)


def two(folder: Path, *callbacks: Any, parameters: Any = None, **args: Any) -> Any:
    """A trainer of two processes with the samples of ``tiny_trainer``'s two."""
    options = {"callbacks": list(callbacks), "device_parameters": parameters}
    return tiny_trainer(folder, tiny_lm(), options=options, **{"per_device_train_batch_size": 1, "per_device_eval_batch_size": 2, **args})


def test_a_shorter_last_batch_leaves_nobody_behind(tmp_path: Path) -> None:
    """Of 17 samples in batches of 4 the last batch has one: the other three processes have nothing of it."""

    def train(size: int, parameters: Any = None) -> list[tuple[float, float]]:
        trainer = tiny_trainer(
            tmp_path,
            tiny_lm(),
            uneven_samples(17),
            options={"device_parameters": parameters},
            per_device_train_batch_size=4 // size,
            save_strategy="no",
            max_steps=10,
        )
        trainer.train()
        return losses(trainer.state.log_history)

    alone = train(1)
    for parameters in (None, spread_over(dp_shard=4)):
        for history in run(lambda parameters=parameters: train(4, parameters), 4):
            assert [step for step, _ in history] == [step for step, _ in alone]
            assert [loss for _, loss in history] == pytest.approx([loss for _, loss in alone], rel=1e-5)


def test_weights_start_as_those_of_the_first_process(tmp_path: Path) -> None:
    def first_loss() -> float:
        trainer = tiny_trainer(tmp_path, tiny_lm(seed=int(os.environ.get("RANK", "0"))), max_steps=1, save_strategy="no")
        trainer.train()
        return float(weights(trainer.model)["head.weight"].sum())

    assert len(set(run(first_loss, 2))) == 1


def test_dropout_differs_between_processes_with_other_samples(tmp_path: Path) -> None:
    def gradient() -> float:
        same = [uneven_samples(1)[0]] * 4
        seen: list[float] = []

        class Norm(TrainerCallback):
            def on_substep_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
                seen.append(float(model.head.weight.grad.norm()))

        trainer = tiny_trainer(
            tmp_path,
            tiny_lm(dropout=0.5),
            same,
            options={"callbacks": [Norm()]},
            max_steps=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            save_strategy="no",
        )
        trainer.train()
        return seen[0]

    one, other = run(gradient, 2)
    assert one != other


def test_evaluation_and_predictions_are_those_of_one_process(tmp_path: Path) -> None:
    def evaluate(size: int, parameters: Any = None) -> tuple[float, float, Any, Any]:
        options = {"device_parameters": parameters, "compute_metrics": lambda prediction: {"sum": float(prediction.predictions.sum())}}
        trainer = tiny_trainer(tmp_path, tiny_lm(), evaluation=uneven_samples(7), options=options, per_device_eval_batch_size=4 // size)
        metrics = trainer.evaluate()
        output = trainer.predict(uneven_samples(5, seed=3))
        return metrics["eval_loss"], metrics["eval_sum"], output.predictions, output.label_ids

    loss, total, predictions, labels = evaluate(1)
    for parameters in (None, spread_over(dp_shard=2)):
        for result in run(lambda parameters=parameters: evaluate(2, parameters), 2):
            assert result[0] == pytest.approx(loss, rel=1e-6)
            assert result[1] == pytest.approx(total, rel=1e-5)
            assert torch.allclose(torch.from_numpy(result[2]), torch.from_numpy(predictions), atol=1e-6)
            assert (result[3] == labels).all()


@pytest.mark.parametrize("flag", ["should_training_stop", "should_save", "should_evaluate", "should_epoch_stop"])
def test_a_wish_of_one_process_is_that_of_all(flag: str, tmp_path: Path) -> None:
    def train() -> Any:
        trainer = two(tmp_path, OnRank(1, 3, lambda control: setattr(control, flag, True)), save_strategy="no")
        trainer.train()
        evaluations = [record["step"] for record in trainer.state.log_history if "eval_loss" in record]
        return trainer.state.global_step, trainer.state.epoch, evaluations

    one, other = run(train, 2)
    assert one == other
    expected = {"should_training_stop": one[0] == 3, "should_evaluate": one[2] == [3], "should_epoch_stop": one[0] == 6}
    assert expected.get(flag, (tmp_path / "checkpoints" / "checkpoint-3").is_dir())


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    def train() -> tuple[int, str]:
        trainer = two(tmp_path, OnRank(1, 3, lambda control: os.kill(os.getpid(), signal.SIGTERM)), save_strategy="steps", save_steps=100)
        with pytest.raises(Interrupted) as stopped:
            trainer.train()
        return stopped.value.signum, str(stopped.value)

    one, other = run(train, 2)
    assert one == other
    assert one[0] == signal.SIGTERM
    assert "after step 3" in one[1]
    assert (tmp_path / "checkpoints" / "checkpoint-3" / "manifest.json").exists()


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def whole() -> Any:
        trainer = two(tmp_path / "whole", save_strategy="no")
        trainer.train()
        return records(trainer.state.log_history), weights(trainer.model)

    def stopped() -> Any:
        two(tmp_path / "parts", OnRank(0, 3, lambda control: setattr(control, "should_training_stop", True)), save_steps=3).train()
        trainer = two(tmp_path / "parts", resume_from_checkpoint=True)
        trainer.train()
        return records(trainer.state.log_history), weights(trainer.model)

    for one, other in zip(run(whole, 2), run(stopped, 2), strict=True):
        assert one[0] == other[0]
        assert_same_weights(one[1], other[1])


def test_one_process_writes_and_logs(tmp_path: Path) -> None:
    def train() -> list[str]:
        trainer = two(tmp_path / os.environ["RANK"], max_steps=4, eval_strategy="steps", eval_steps=2)
        # Each process has a folder of its own here: what it writes shows there.
        trainer.train()
        trainer.save_model()
        return sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / os.environ["RANK"]).rglob("*") if file.is_file())

    first, second = run(train, 2)
    assert {"0/model.safetensors", "0/logs/metrics.jsonl", "0/checkpoints/checkpoint-4/manifest.json"} <= set(first)
    assert second == []


class Words:
    """A tokenizer of digits."""

    eos_token_id = 0

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))

    def save_pretrained(self, folder: Path) -> None:
        """Nothing to save."""


def test_text_is_generated_where_weights_are_shared(tmp_path: Path) -> None:
    def train() -> None:
        callback = TextgenCallback(prompts=["1 2 3"], generation_steps=1, max_new_tokens=4)
        options = {"callbacks": [callback], "device_parameters": spread_over(dp_shard=2), "processing_class": Words()}
        tiny_trainer(tmp_path, decoder(), options=options, max_steps=2, per_device_train_batch_size=1, save_strategy="no").train()

    run(train, 2)
    assert len((tmp_path / "logs" / "textgen.jsonl").read_text().splitlines()) == 2


def test_the_loop_says_what_it_does(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    trainer = tiny_trainer(tmp_path, tiny_lm(), max_steps=2, save_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.phase = lambda name, step: told.append((name, step))
    trainer.train()
    assert told == [
        *[("data", 1), ("forward", 1), ("optimizer", 1), ("log", 1)],
        *[("data", 2), ("forward", 2), ("optimizer", 2), ("log", 2)],
        *[("evaluate", 2)] * 3,  # its begin, and after each of two batches
        ("save", 2),
    ]


def test_the_number_of_a_step_never_goes_back(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    options = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "epoch", "gradient_accumulation_steps": 2}
    trainer = tiny_trainer(tmp_path, tiny_lm(), max_steps=-1, num_train_epochs=2, **options)
    trainer.phase = lambda name, step: told.append((name, step))
    trainer.train()
    trainer.evaluate()
    steps = [step for _, step in told]
    assert steps == sorted(steps)
    assert told.count(("forward", 1)) == 2, "every micro-batch is a sign of life"
    assert {name for name, _ in told} == {"data", "forward", "optimizer", "log", "evaluate", "save"}


def test_a_folder_in_use_is_refused_by_all(tmp_path: Path) -> None:
    def train() -> str:
        with pytest.raises(ResourceError) as refused:
            two(tmp_path).train()
        return str(refused.value)

    with RunLock(tmp_path):
        start = time.monotonic()
        messages = run(train, 2)
    assert all("in use by another run" in message for message in messages)
    assert time.monotonic() - start < 30


def test_degrees_that_do_not_fit_are_refused_before_training(tmp_path: Path) -> None:
    def train() -> str:
        parameters = spread_over(tensor_parallel_size="auto")
        parameters.tensor_parallel_size = 3
        with pytest.raises(ConfigError) as refused:
            two(tmp_path, parameters=parameters).train()
        return str(refused.value)

    assert all("makes 3 processes, but 2 were started" in message for message in run(train, 2))
