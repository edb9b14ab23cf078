"""A model in stages that also share weights, layers and sequences, and read different samples, trains as in one process."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.distributed.pipelining  # seconds of imports, once before the tests fork

from ironloom import Trainer
from ironloom.settings.pipeline import SCHEDULES, PipelineTrainingArguments
from parallel.pipelines import small_model
from spread import MODELS, Result, largest_error, spread_over, together, train

NEAR = 1e-5

#: Processes, sizes beside a pipeline of two, processes that read different samples.
PRODUCTS: dict[str, tuple[int, dict[str, Any], int]] = {
    "alone": (2, {}, 1),
    "data": (4, {"dp_replicate": 2}, 2),
    "sharded": (4, {"dp_shard": 2}, 2),
    "tensor": (4, {"tensor_parallel_size": 2}, 1),
    "context": (4, {"context_parallel_size": 2}, 1),
    "hybrid": (8, {"dp_replicate": 2, "dp_shard": 2}, 4),
    "sharded x tensor": (8, {"dp_shard": 2, "tensor_parallel_size": 2}, 2),
    "sharded x context": (8, {"dp_shard": 2, "context_parallel_size": 2}, 2),
    "context x tensor": (8, {"context_parallel_size": 2, "tensor_parallel_size": 2}, 1),
}


@functools.cache
def one_process(model: str, **args: Any) -> Result:
    return train(_model(model), None, 1, **args)


def _model(name: str) -> Any:
    """One of two layers, or where two stages on each process need more, one of four or five."""
    return MODELS[name] if name in MODELS else functools.partial(small_model, name)


def with_pipeline(model: Any, values: dict[str, Any], **options: Any) -> Trainer:
    """The plain trainer, told what a pipeline is to be."""
    return Trainer(model, PipelineTrainingArguments(**values), **options)


def whole_model(results: list[Result]) -> list[Result]:
    """Each process's result with the weights of all stages; what several processes have is the same bits."""
    weights: dict[str, torch.Tensor] = {}
    for result in results:
        for name, weight in result.weights.items():
            assert torch.equal(weights.setdefault(name, weight), weight), name
    for result in results:
        result.weights = weights
    return results


def check(model: str, product: str, options: dict[str, Any] | None = None, **args: Any) -> None:
    nproc, sizes, data_size = PRODUCTS[product]
    parameters = spread_over(pipeline_parallel_size=2, **sizes, **(options or {}))
    for result in whole_model(together(_model(model), nproc, parameters, data_size, timeout=120, **args)):
        assert largest_error(one_process(model), result) < NEAR


@pytest.mark.parametrize("product", ["alone", "data", "sharded", "tensor", "context"])
@pytest.mark.parametrize("model", ["decoder", "llama"])
def test_a_product(model: str, product: str) -> None:
    check(model, product)


@pytest.mark.slow
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("model", ["decoder, gated, untied", "llama, tied", "gpt2", "qwen2"])
def test_products(model: str, product: str) -> None:
    check(model, product)


def check_schedule(model: str, product: str, schedule: str) -> None:
    nproc, sizes, data_size = PRODUCTS[product]
    pipeline = {"schedule_class": schedule, "stages_per_rank": SCHEDULES[schedule].least, "pipeline_chunks": 4}
    parameters = spread_over(pipeline_parallel_size=2, **sizes)
    batch = 8 // data_size
    args = {"cls": with_pipeline, "per_device_train_batch_size": batch, **pipeline}
    for result in whole_model(together(_model(model), nproc, parameters, data_size, timeout=120, **args)):
        assert largest_error(one_process(model, per_device_train_batch_size=8), result) < NEAR


@pytest.mark.parametrize(("product", "schedule"), [("sharded", "ScheduleZBVZeroBubble"), ("tensor", "ScheduleInterleavedZeroBubble")])
def test_a_schedule_whose_backward_is_in_two(product: str, schedule: str) -> None:
    check_schedule("tied", product, schedule)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("product", ["sharded", "tensor", "context"])
@pytest.mark.parametrize("model", ["tied", "llama"])
def test_every_schedule_goes_with_every_product(model: str, product: str, schedule: str) -> None:
    check_schedule(model, product, schedule)
