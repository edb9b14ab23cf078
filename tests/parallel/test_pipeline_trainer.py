"""PipelineTrainer as the specification has it: its arguments, evaluation, saving, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ironloom import Trainer
from ironloom.callbacks.textgen_callback import TextgenCallback
from ironloom.errors import ConfigError, DataError
from ironloom.objectives import CrossEntropy
from ironloom.parallel import DistributedEnvironment
from ironloom.parallel.pipeline.loss import MeanLoss, objective_of
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.trainer.pipeline_trainer import PipelineTrainer
from parallel.pipelines import arguments, data, deviation, numbers, one_process, pipeline_trainer, small_model, texts
from spawned import run

SAVING = {"save_strategy": "steps", "save_steps": 3, "save_optimizer_state": True, "save_scheduler_state": True, "max_steps": 6}


def shifted_mean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A user's causal loss."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A mean over the targets that is no cross entropy."""
    chosen = labels[:, 1:] != -100
    return logits[:, :-1][chosen].square().mean(-1).mean()


def test_a_user_s_loss_is_recognised_and_weighed_by_its_targets() -> None:
    assert objective_of(shifted_mean) == CrossEntropy(True)
    assert objective_of(lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten())) == CrossEntropy(False)
    objective = objective_of(squared)
    assert isinstance(objective, MeanLoss)
    labels = torch.tensor([[-100, 1, 2, 3], [-100, -100, -100, 4]])
    logits = torch.randn(2, 4, 7)
    parts = sum(objective.loss_sum(logits[row : row + 1], {"labels": labels[row : row + 1]}, 4) for row in range(2))
    assert torch.allclose(parts / 4, squared(logits, labels))


def _with_user_parts(folder: str) -> Any:
    import functools

    from torch.distributed.pipelining import ScheduleInterleaved1F1B

    options = {"loss_fn": squared, "pipe_schedule_factory": functools.partial(ScheduleInterleaved1F1B)}
    trainer = pipeline_trainer("untied", folder, "ScheduleGPipe", options, max_steps=5, stages_per_rank=2)
    trainer.train()
    return numbers(trainer), type(next(iter(trainer._engine.runner._schedules.values()))).__name__


def test_loss_and_schedule_of_the_user_are_used(tmp_path: Path) -> None:
    environment = DistributedEnvironment(use_cpu=True)
    one = PipelineTrainer(
        small_model("untied"), arguments(str(tmp_path / "one"), max_steps=5), **data(), distributed_env=environment, loss_fn=squared
    )
    one.train()
    for history, schedule in run(_with_user_parts, 2, str(tmp_path / "two")):
        assert schedule == "ScheduleInterleaved1F1B"
        assert deviation(numbers(one), history) < 1e-5


@pytest.mark.parametrize("recompute", [False, True])
def test_one_process_is_a_pipeline_too(recompute: bool, tmp_path: Path) -> None:
    args = PipelineTrainingArguments(**arguments(str(tmp_path)), checkpoint_sequential=recompute)
    model, calls = small_model("tied"), []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *args: calls.append(torch.is_grad_enabled()))
    trainer = PipelineTrainer(model, args, **data(), distributed_env=DistributedEnvironment())
    trainer.train()
    assert numbers(trainer) == one_process("tied")
    assert sum(calls) == (2 if recompute else 1) * 2 * args.max_steps


def _in_half_precision(folder: str) -> Any:
    trainer = pipeline_trainer("untied", folder, "ScheduleGPipe", bf16=True, max_steps=5)
    trainer.train()
    return numbers(trainer)


def test_half_precision_is_that_of_one_process(tmp_path: Path) -> None:
    """The same sums in another order differ by the rounding of bfloat16, and from float32 by more."""
    one = one_process("untied", bf16=True, max_steps=5)
    assert deviation(one_process("untied", max_steps=5), one) > 1e-4
    for history in run(_in_half_precision, 2, str(tmp_path)):
        assert deviation(one, history) < 5e-3


def _evaluated(folder: str, schedule: str) -> Any:
    options = {"compute_metrics": lambda result: {"mean": float(np.abs(result.predictions[result.predictions != -100]).mean())}}
    trainer = pipeline_trainer("gpt2", folder, schedule, options)
    metrics = trainer.evaluate()
    return metrics["eval_loss"], metrics["eval_mean"], trainer.predict(texts(3)).predictions


@pytest.mark.parametrize("schedule", ["ScheduleLoopedBFS", "ScheduleZBVZeroBubble"])
def test_evaluation_and_prediction_without_training(schedule: str, tmp_path: Path) -> None:
    options: Any = {"compute_metrics": lambda result: {"mean": float(np.abs(result.predictions[result.predictions != -100]).mean())}}
    one = Trainer(small_model("gpt2"), arguments(str(tmp_path)), **data(), **options)
    metrics, predictions = one.evaluate(), one.predict(texts(3)).predictions
    for loss, mean, found in run(_evaluated, 2, str(tmp_path), schedule):
        assert loss == pytest.approx(metrics["eval_loss"], rel=1e-5)
        assert mean == pytest.approx(metrics["eval_mean"], rel=1e-5)
        np.testing.assert_allclose(found, predictions, rtol=1e-4, atol=1e-5)


def _trained(folder: str, changes: dict[str, Any]) -> Any:
    trainer = pipeline_trainer("tied", folder, "ScheduleInterleaved1F1B", **{**SAVING, **changes})
    trainer.train()
    weights = {name: parameter.detach().numpy().copy() for name, parameter in trainer.model.named_parameters()}
    return numbers(trainer), weights


def _alone(folder: Path, **changes: Any) -> Any:
    trainer = Trainer(small_model("tied"), arguments(str(folder), **{**SAVING, **changes}), **data())
    trainer.train()
    return numbers(trainer), {name: parameter.detach().numpy().copy() for name, parameter in trainer.model.named_parameters()}


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_pipeline_goes_on_where_it_was_and_so_does_one_process(tmp_path: Path) -> None:
    whole = run(_trained, 2, str(tmp_path / "whole"), {})
    half = {"resume_from_checkpoint": str(tmp_path / "whole" / "checkpoints" / "checkpoint-3")}
    again = run(_trained, 2, str(tmp_path / "again"), half)
    for (_, weights), (_, resumed) in zip(whole, again, strict=True):
        assert weights.keys() == resumed.keys() and _same(weights, resumed)
    history, weights = _alone(tmp_path / "alone", **half)
    assert deviation(whole[0][0], history) < 1e-5
    assert {name for _, part in whole for name in part} == weights.keys()


def test_a_run_of_one_process_goes_on_as_a_pipeline(tmp_path: Path) -> None:
    history, _ = _alone(tmp_path / "alone")
    half = {"resume_from_checkpoint": str(tmp_path / "alone" / "checkpoints" / "checkpoint-3")}
    for found, _ in run(_trained, 2, str(tmp_path / "two"), half):
        assert deviation(history, found) < 1e-5


def _saved(folder: str) -> None:
    pipeline_trainer("llama_tied", folder, "ScheduleGPipe").save_model()
    trainer = pipeline_trainer("llama_tied", folder, "ScheduleGPipe", max_steps=1)
    trainer.train()
    trainer.save_model()


def test_the_saved_model_is_one_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    run(_saved, 2, str(tmp_path))
    one = Trainer(small_model("llama_tied"), arguments(str(tmp_path / "one"), max_steps=1), **data())
    one.train()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, value in one.model.state_dict().items():
        # Far below the step of 2e-3: AdamW's first one is as long wherever the gradient is rounding alone.
        assert torch.allclose(value, loaded[name], atol=1e-4), name


def _refusal(folder: str, changes: dict[str, Any], options: dict[str, Any], schedule: str) -> str:
    try:
        pipeline_trainer("tied", folder, schedule, options, **changes).train()
    except (ConfigError, DataError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


@pytest.mark.parametrize(
    ("changes", "options", "schedule", "message"),
    [
        ({"pipeline_parallel_size": 3}, {}, "ScheduleGPipe", "set it to 2, or start 3 processes"),
        ({"split_spec": {"model.layers.9": "end"}}, {}, "ScheduleGPipe", "the model calls no such module"),
        ({"split_spec": {"model.layers.1": "end", "model.layers.2": "end"}}, {}, "ScheduleGPipe", "name 1 cuts"),
        ({"stages_per_rank": 3, "pipeline_chunks": 4}, {}, "ScheduleInterleaved1F1B", "6 stages"),
        ({"pipeline_chunks": 1}, {}, "Schedule1F1B", "set it to 2"),
        ({"stages_per_rank": 2}, {}, "ScheduleGPipe", "ScheduleGPipe needs 1 stage on each rank"),
        ({}, {"callbacks": [TextgenCallback(prompts=["A"], max_new_tokens=1)]}, "ScheduleGPipe", "TextgenCallback"),
        ({}, {"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), None)}, "ScheduleGPipe", "optimizer_factory"),
    ],
)
def test_what_does_not_fit_is_refused_in_every_process(
    changes: dict[str, Any], options: dict[str, Any], schedule: str, message: str, tmp_path: Path
) -> None:
    for told in run(_refusal, 2, str(tmp_path), changes, options, schedule):
        assert told.startswith("ConfigError") and message in told
