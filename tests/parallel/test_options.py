"""What DeviceParameters says of arithmetic, memory and the compiler: each option has its effect, or is refused by name."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ironloom.device import choose_device
from ironloom.errors import ConfigError
from ironloom.parallel.mesh import Degrees, Place
from ironloom.parallel.recompute import recompute_blocks
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.device_options import check_together, precision
from ironloom.trainer.pipeline_options import stage_options
from spawned import run
from spread import MODELS, Result, largest_error, spread_over, together, train
from tiny import tiny_trainer

TOLERANCE = 1e-5
EAGER = {"torch_compile_backend": "aot_eager"}


@functools.cache
def one_process() -> Result:
    return train(MODELS["decoder"], None, 1)


class _Counted(TorchDispatchMode):
    """How often each kind of operation was done."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"products": 0, "attention": 0, "activations": 0}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            self.counts["products"] += 1
        elif name.startswith("_scaled_dot_product") and not name.endswith("backward"):
            self.counts["attention"] += 1
        elif name in ("gelu", "silu", "tanh"):
            self.counts["activations"] += 1
        return function(*args, **(kwargs or {}))


def _operations(model: nn.Module, strategy: Any) -> tuple[dict[str, int], torch.Tensor]:
    if strategy is not None:
        recompute_blocks(model, strategy)
    batch = {"input_ids": torch.arange(24).reshape(2, 12)}
    with _Counted() as counted:
        model(**batch).logits.square().sum().backward()
    return counted.counts, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("family", ["decoder", "decoder, gated, untied", "llama", "qwen2", "mistral", "gpt2"])
def test_what_is_recomputed(family: str) -> None:
    """Full: the forward pass of the blocks is done twice. Selective: of it only what is neither a product nor attention."""
    (once, exact), (full, full_gradient), (some, some_gradient) = (
        _operations(MODELS[family](), strategy) for strategy in (None, "full", "selective")
    )
    assert full["attention"] == 2 * once["attention"] > 0 and full["activations"] == 2 * once["activations"] > 0
    assert full["products"] > once["products"]
    assert some["attention"] == once["attention"] and some["products"] == once["products"]
    assert some["activations"] == 2 * once["activations"]
    assert torch.equal(exact, full_gradient) and torch.equal(exact, some_gradient)


@pytest.mark.parametrize(
    "nproc, sizes",
    [
        (1, {"force_fsdp": True}),
        (1, {"force_ddp": True}),
        (2, {"dp_shard": 2, "checkpoint_activations": True, "recompute": "selective"}),
        (2, {"dp_replicate": 2, "offload_parameters": True, "offload_optimizer": True}),
        pytest.param(1, {"offload_parameters": True}, marks=pytest.mark.slow),
        pytest.param(2, {"dp_replicate": 2, "force_fsdp": True}, marks=pytest.mark.slow),
        pytest.param(2, {"tensor_parallel_size": 2, "checkpoint_activations": True, "recompute": "selective"}, marks=pytest.mark.slow),
        pytest.param(2, {"tensor_parallel_size": 2, "checkpoint_activations": True, "sequence_parallel": True}, marks=pytest.mark.slow),
        pytest.param(2, {"tensor_parallel_size": 2, "offload_parameters": True, "sequence_parallel": True}, marks=pytest.mark.slow),
        pytest.param(
            2,
            {"context_parallel_size": 2, "checkpoint_activations": True, "context_parallel_rotate_method": "alltoall"},
            marks=pytest.mark.slow,
        ),
        pytest.param(2, {"tensor_parallel_size": 2, "compile_model": True, "sequence_parallel": True}, marks=pytest.mark.slow),
        pytest.param(
            2, {"context_parallel_size": 2, "compile_model": True, "context_parallel_rotate_method": "alltoall"}, marks=pytest.mark.slow
        ),
        pytest.param(2, {"dp_replicate": 2, "compile_model": True, "compiled_autograd": True}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that the compiler looks at
def test_options_change_no_number(nproc: int, sizes: dict[str, Any]) -> None:
    data_size = 2 if {"dp_shard", "dp_replicate"} & sizes.keys() else 1
    for result in together(MODELS["decoder"], nproc, spread_over(**sizes), data_size, timeout=300, **EAGER):
        assert largest_error(one_process(), result) < TOLERANCE


def _trained(inspect: Any, **sizes: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        options = {"device_parameters": spread_over(**sizes)}
        trainer = tiny_trainer(Path(folder), MODELS["decoder"](), options=options, max_steps=2, save_strategy="no", **EAGER)
        trainer.train()
        return inspect(trainer)


def test_forced_wrapping_is_there() -> None:
    def kind(trainer: Any) -> tuple[str, str]:
        return type(trainer._engine).__name__, "DTensor" if hasattr(next(trainer.model.parameters()), "placements") else "Tensor"

    assert run(lambda: _trained(kind, force_fsdp=True), 1) == [("ParallelEngine", "DTensor")]
    assert run(lambda: _trained(kind, force_ddp=True), 1) == [("ParallelEngine", "Tensor")]
    assert run(lambda: _trained(kind), 1) == [("NativeEngine", "Tensor")]


def test_moments_live_in_host_memory_between_updates() -> None:
    def held(trainer: Any) -> tuple[int, int, set[str]]:
        moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
        return trainer._engine.host_state.num_bytes, sum(moment.nbytes for moment in moments), {str(moment.device) for moment in moments}

    num_bytes, there, devices = _trained(held, offload_optimizer=True)
    assert num_bytes == there > 0 and devices == {"cpu"}


@pytest.mark.skipif(choose_device().type == "cpu", reason="needs an accelerator")
def test_moments_and_weights_live_in_host_memory_beside_an_accelerator() -> None:
    def places(trainer: Any) -> tuple[set[str], set[str]]:
        moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
        return {moment.device.type for moment in moments}, {parameter.device.type for parameter in trainer.model.parameters()}

    assert _trained(places, offload_optimizer=True) == ({"cpu"}, {choose_device().type})


@pytest.mark.parametrize("sizes", [{"dp_replicate": 2}, {"dp_shard": 2}])
def test_gradients_summed_in_half_precision(sizes: dict[str, Any]) -> None:
    errors = [
        largest_error(one_process(), result) for result in together(MODELS["decoder"], 2, spread_over(**sizes, reduce_dtype="bfloat16"), 2)
    ]
    assert all(1e-5 < error < 1e-2 for error in errors)


def test_arithmetic_in_half_precision_on_exact_weights() -> None:
    """``activation_dtype`` alone is autocast; with ``param_dtype`` as well, weights are rounded before they are sent."""
    alone = train(MODELS["llama"], None, 1, bf16=True)
    result = together(MODELS["llama"], 2, spread_over(dp_shard=2, param_dtype="float32", activation_dtype="bfloat16"), 2)[0]
    assert [loss for _, loss in result.losses] == pytest.approx([loss for _, loss in alone.losses], rel=2e-3)
    assert largest_error(train(MODELS["llama"], None, 1), result) > 1e-4


def test_the_type_of_the_arithmetic() -> None:
    def of(args: dict[str, Any], **parameters: Any) -> torch.dtype | None:
        return precision(TrainingArguments(output_dir="x", **args), DeviceParameters(**parameters))

    assert of({}, param_dtype="float32") is None
    assert of({}, param_dtype="float32", activation_dtype="bfloat16") is torch.bfloat16
    assert of({"bf16": True}, param_dtype="float32", activation_dtype="bfloat16") is torch.bfloat16
    assert of({"fp16": True}, param_dtype="float16") is torch.float16
    with pytest.raises(ConfigError, match="ask for bfloat16, but param_dtype is float32"):
        of({"bf16": True}, param_dtype="float32")
    with pytest.raises(ConfigError, match="ask for bfloat16, but activation_dtype is float16"):
        of({"bf16": True}, param_dtype="float32", activation_dtype="float16")


@pytest.mark.parametrize(
    "field, value",
    [
        ("sequence_parallel", True),
        ("loss_parallel", True),
        ("context_parallel_rotate_method", "alltoall"),
        ("recompute", "selective"),
        ("compiled_autograd", True),
        ("activation_memory_budget", 0.5),
    ],
)
def test_an_option_without_what_it_is_an_option_of_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field}: it has no effect without .* or leave {field} out"):
        DeviceParameters(**{field: value})


@pytest.mark.parametrize("param_dtype, activation_dtype", [("bfloat16", "float32"), ("bfloat16", "float16"), ("float16", "bfloat16")])
def test_types_that_cannot_go_together_are_refused(param_dtype: str, activation_dtype: str) -> None:
    with pytest.raises(ConfigError, match=f"weights in {param_dtype} cannot be multiplied in {activation_dtype}"):
        DeviceParameters(param_dtype=param_dtype, activation_dtype=activation_dtype)


def test_what_these_processes_cannot_have_is_refused() -> None:
    for name in ("sequence_parallel", "loss_parallel"):
        with pytest.raises(ConfigError, match=f"a pipeline does not go together with {name}"):
            stage_options(PipelineTrainingArguments(), DeviceParameters(tensor_parallel_size=2, pipeline_parallel_size=2, **{name: True}))
    two = Team(Place(0, 2, Degrees(tp=2)), torch.device("cpu"))
    asynchronous = DeviceParameters(tensor_parallel_size=2, compile_model=True, async_tensor_parallel=True)
    with pytest.raises(ConfigError, match="async_tensor_parallel needs CUDA devices"):
        check_together(TrainingArguments(), asynchronous, two)
    again = DeviceParameters(tensor_parallel_size=2, checkpoint_activations=True)
    for args, parameters in (
        (TrainingArguments(torch_compile=True), again),
        (TrainingArguments(), dataclasses.replace(again, compile_model=True)),
    ):
        with pytest.raises(ConfigError, match="set recompute to selective"):
            check_together(args, parameters, two)
        check_together(args, dataclasses.replace(parameters, recompute="selective"), two)
        check_together(args, parameters, Team(Place(0, 2, Degrees(dp_replicate=2)), torch.device("cpu")))


def _compiler(trainer: Any) -> tuple[float, float, int]:
    import torch._functorch.config

    with trainer._engine.around():
        inside = torch._functorch.config.activation_memory_budget
    captures: int = torch._dynamo.utils.counters["compiled_autograd"]["captures"]
    return inside, torch._functorch.config.activation_memory_budget, captures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that the compiler looks at
def test_options_of_the_compiler() -> None:
    inside, outside, captures = run(
        lambda: _trained(_compiler, compile_model=True, compiled_autograd=True, activation_memory_budget=0.5), 1
    )[0]
    assert (inside, outside) == (0.5, 1.0) and captures > 0


def test_compiled_autograd_over_sharded_weights_is_refused() -> None:
    def refusal() -> str:
        with pytest.raises(ConfigError) as error:
            _trained(lambda trainer: None, dp_shard=2, compile_model=True, compiled_autograd=True)
        return str(error.value)

    assert "loses the gradients of sharded and split weights" in run(refusal, 2)[0]
