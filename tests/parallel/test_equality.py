"""Every way of spreading a run over processes gives the numbers of one process."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from spread import MODELS, Result, largest_error, spread_over, together, train

TOLERANCE = 1e-5

ALONE = {
    "data parallel": (2, None, 2),
    "data parallel, given": (2, {"dp_replicate": 2}, 2),
    "sharded": (2, {"dp_shard": 2}, 2),
    "tensor parallel": (2, {"tensor_parallel_size": 2}, 1),
    "context parallel": (2, {"context_parallel_size": 2}, 1),
}
OPTIONS = {
    "loss parallel": (2, {"tensor_parallel_size": 2, "loss_parallel": True}, 1),
    "sequence parallel": (2, {"tensor_parallel_size": 2, "sequence_parallel": True}, 1),
    "sequence and loss parallel": (2, {"tensor_parallel_size": 2, "sequence_parallel": True, "loss_parallel": True}, 1),
    "ring": (2, {"context_parallel_size": 2, "context_parallel_rotate_method": "alltoall"}, 1),
}
PRODUCTS = {
    "data parallel x4": (4, None, 4),
    "hybrid sharded": (4, {"dp_replicate": 2, "dp_shard": 2}, 4),
    "sharded x4": (4, {"dp_shard": "auto"}, 4),
    "data x tensor parallel": (4, {"dp_replicate": 2, "tensor_parallel_size": 2}, 2),
    "sharded x tensor parallel": (4, {"dp_shard": 2, "tensor_parallel_size": 2}, 2),
    "data x context parallel": (4, {"dp_replicate": 2, "context_parallel_size": 2}, 2),
    "sharded x context parallel": (4, {"dp_shard": 2, "context_parallel_size": 2}, 2),
    "context x tensor parallel": (4, {"context_parallel_size": 2, "tensor_parallel_size": 2}, 1),
    "sharded x sequence and loss parallel": (
        4,
        {"dp_shard": 2, "tensor_parallel_size": 2, "sequence_parallel": True, "loss_parallel": True},
        2,
    ),
    "ring x sequence parallel": (
        4,
        {"context_parallel_size": 2, "context_parallel_rotate_method": "alltoall", "tensor_parallel_size": 2, "sequence_parallel": True},
        1,
    ),
    "sharded x ring x loss parallel": (
        8,
        {
            "dp_shard": 2,
            "context_parallel_size": 2,
            "context_parallel_rotate_method": "alltoall",
            "tensor_parallel_size": 2,
            "loss_parallel": True,
        },
        2,
    ),
    "hybrid sharded x context parallel": (8, {"dp_replicate": 2, "dp_shard": 2, "context_parallel_size": 2}, 4),
    "sharded x context x tensor parallel": (8, {"dp_shard": 2, "context_parallel_size": 2, "tensor_parallel_size": 2}, 2),
}
FAMILIES = ["decoder, gated, untied", "llama", "qwen2", "mistral", "gpt2"]


@functools.cache
def one_process(model: str) -> Result:
    return train(MODELS[model], None, 1)


def check(model: str, mode: tuple[int, dict[str, Any] | None, int]) -> None:
    nproc, sizes, data_size = mode
    for result in together(MODELS[model], nproc, spread_over(**sizes) if sizes else None, data_size):
        assert largest_error(one_process(model), result) < TOLERANCE


@pytest.mark.parametrize("mode", ALONE)
@pytest.mark.parametrize("model", ["decoder", "llama, tied"])
def test_a_mode_alone(model: str, mode: str) -> None:
    check(model, ALONE[mode])


@pytest.mark.parametrize(
    "model, mode",
    [
        ("decoder", "loss parallel"),
        ("decoder", "sequence parallel"),
        ("llama, tied", "sequence and loss parallel"),
        ("llama, tied", "ring"),
    ],
)
def test_an_option_of_a_mode(model: str, mode: str) -> None:
    check(model, OPTIONS[mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", OPTIONS)
@pytest.mark.parametrize("model", ["decoder", *FAMILIES])
def test_an_option_of_a_mode_on_every_family(model: str, mode: str) -> None:
    check(model, OPTIONS[mode])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that the compiler looks at
@pytest.mark.parametrize("option", ["checkpoint_activations", "offload_parameters", pytest.param("compile_model", marks=pytest.mark.slow)])
def test_an_option_of_memory_or_speed(option: str) -> None:
    mode = spread_over(dp_shard=2, **{option: True})
    results = together(MODELS["decoder"], 2, mode, 2, torch_compile_backend="aot_eager")
    assert all(largest_error(one_process("decoder"), result) < TOLERANCE for result in results)


def test_half_precision_is_that_of_one_process() -> None:
    alone = train(MODELS["llama"], None, 1, bf16=True)
    result = together(MODELS["llama"], 2, spread_over(dp_shard=2, param_dtype="bfloat16"), 2)[0]
    exact = one_process("llama")
    assert [loss for _, loss in result.losses] == pytest.approx([loss for _, loss in alone.losses], rel=2e-3)
    assert result.losses != exact.losses
    assert all(weight.dtype is torch.float32 for weight in result.weights.values())


@pytest.mark.parametrize(
    "nproc, sizes",
    [
        (2, {"dp_shard": 2}),
        (2, {"tensor_parallel_size": 2, "sequence_parallel": True, "loss_parallel": True}),
        pytest.param(2, {"tensor_parallel_size": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"dp_shard": 2, "tensor_parallel_size": 2, "sequence_parallel": True}, marks=pytest.mark.slow),
        pytest.param(4, {"dp_replicate": 2, "tensor_parallel_size": 2, "loss_parallel": True}, marks=pytest.mark.slow),
    ],
)
def test_partly_frozen_models(nproc: int, sizes: dict[str, Any]) -> None:
    """Losses, weights, and the norm over all meshes of the gradients that there are."""
    alone = train(adapter, None, 1)
    for result in together(adapter, nproc, spread_over(**sizes), 2 if {"dp_shard", "dp_replicate"} & sizes.keys() else 1):
        assert largest_error(alone, result) < TOLERANCE


def adapter() -> Any:
    model = MODELS["llama"]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name or "norm" in name)
    return model


def test_models_without_blocks_or_plans() -> None:
    check("tiny", ALONE["data parallel"])
    check("tiny", ALONE["sharded"])


@pytest.mark.parametrize("mode", ["data parallel", "sharded", "tensor parallel", "context parallel"])
@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_a_mode_alone_on_every_family(model: str, mode: str) -> None:
    check(model, ALONE[mode])


@pytest.mark.parametrize("mode", ["hybrid sharded", "sharded x tensor parallel", "sharded x context parallel"])
def test_a_product(mode: str) -> None:
    check("decoder", PRODUCTS[mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", PRODUCTS)
@pytest.mark.parametrize("model", ["decoder", "decoder, gated, untied", "llama, tied", "gpt2"])
def test_products(model: str, mode: str) -> None:
    check(model, PRODUCTS[mode])
