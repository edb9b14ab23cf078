"""What device parameters ask of every engine: the type of the arithmetic, the compiler, the place of the moments."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from ironloom.device import DTYPES
from ironloom.errors import ConfigError
from ironloom.optim.offload import HostState
from ironloom.parallel.mesh import Degrees
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.engine import NativeEngine


def equip(engine: NativeEngine, args: TrainingArguments, parameters: DeviceParameters, dtype: torch.dtype | None) -> None:
    """Give an engine its arithmetic.

    Args:
        engine: Made, and not used yet.
        args: Which compiler, if any.
        parameters: Which options of it, and where the optimizer's state is kept.
        dtype: Type of the arithmetic, None for float32.
    """
    engine.autocast_dtype = dtype
    if dtype is torch.float16 and engine.scaler is None:
        engine.scaler = torch.amp.GradScaler(engine.device.type)
    if parameters.offload_optimizer:
        engine.host_state = HostState()
    if compiler_of(args, parameters) is not None:
        engine.around = functools.partial(compiler_options, parameters, args)


def compiler_of(args: TrainingArguments, parameters: DeviceParameters) -> dict[str, Any] | None:
    """Options of ``torch.compile``; None: nothing is compiled."""
    if not (args.torch_compile or parameters.compile_model):
        return None
    return {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}


def spread_options(args: TrainingArguments, parameters: DeviceParameters, degrees: Degrees) -> dict[str, Any]:
    """How a model is spread: options of :func:`ironloom.parallel.apply.spread`."""
    return {
        "param_dtype": None if parameters.param_dtype == "float32" else DTYPES[parameters.param_dtype],
        "offload": parameters.offload_parameters,
        "compiler": compiler_of(args, parameters),
        "reduce_dtype": DTYPES[parameters.reduce_dtype],
        "wrap": parameters.force_fsdp,
        "sequence_parallel": parameters.sequence_parallel and degrees.tp > 1,
        "loss_parallel": parameters.loss_parallel and degrees.tp > 1,
        "rotation": parameters.context_parallel_rotate_method,
    }


def check_spread(parameters: DeviceParameters, dtype: torch.dtype | None, is_sharded: bool) -> None:
    """Refuse what weights in parts cannot have.

    Raises:
        ConfigError: Naming the option, and what to do.
    """
    if dtype is torch.float16 and is_sharded:
        raise ConfigError("float16 needs whole weights in every process: use bfloat16, or dp_replicate alone")
    if parameters.compiled_autograd and is_sharded:
        raise ConfigError(
            "compiled_autograd loses the gradients of sharded and split weights in this PyTorch: leave it out, or use only dp_replicate"
        )


def check_together(args: TrainingArguments, parameters: DeviceParameters, team: Team) -> None:
    """Refuse options that this device or these processes cannot have.

    Raises:
        ConfigError: Naming the option, and what to do.
    """
    degrees = team.place.degrees
    is_whole = parameters.checkpoint_activations and parameters.recompute == "full"
    if is_whole and compiler_of(args, parameters) is not None and degrees.tp > 1:
        # PyTorch's compiler fails on what such a block would save for its backward pass.
        raise ConfigError(
            "blocks whose layers are split cannot be both compiled and computed again as a whole: set recompute to selective, "
            "or leave out compile_model or checkpoint_activations"
        )
    if args.attention_kernel == "flex" and degrees.cp > 1:
        raise ConfigError(
            "attention_kernel flex does not reach over the processes that share a sequence: set attention_kernel to auto, "
            "or context_parallel_size to 1"
        )
    if parameters.async_tensor_parallel:
        if team.device.type != "cuda":
            raise ConfigError(
                f"async_tensor_parallel needs CUDA devices that read each other's memory, not {team.device.type}: leave it out"
            )
        if not parameters.sequence_parallel:
            raise ConfigError("async_tensor_parallel overlaps the exchange of slices with products: set sequence_parallel, or leave it out")
        from torch.distributed._symmetric_memory import enable_symm_mem_for_group

        enable_symm_mem_for_group(team.place.group("tp").group_name)


@contextlib.contextmanager
def compiler_options(parameters: DeviceParameters, args: TrainingArguments) -> Iterator[None]:
    """What parameters ask of the compiler, for a forward and backward pass within."""
    with contextlib.ExitStack() as stack:
        if parameters.activation_memory_budget < 1:
            import torch._functorch.config

            budget = parameters.activation_memory_budget
            stack.enter_context(torch._functorch.config.patch(activation_memory_budget=budget))
        if parameters.compiled_autograd:
            import torch._dynamo.compiled_autograd

            compiler = torch.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
            stack.enter_context(torch._dynamo.compiled_autograd._enable(compiler))
        if parameters.async_tensor_parallel:
            import torch._inductor.config

            stack.enter_context(torch._inductor.config.patch(_micro_pipeline_tp=True))
        yield


def precision(args: TrainingArguments, parameters: DeviceParameters | None) -> torch.dtype | None:
    """The type of the arithmetic, None for float32.

    Raises:
        ConfigError: If the two say different things.
    """
    asked = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    name = asked or "float32"
    if parameters is not None:
        name = parameters.activation_dtype or parameters.param_dtype
        if asked not in (None, name):
            field = "param_dtype" if parameters.activation_dtype is None else "activation_dtype"
            raise ConfigError(f"the arguments ask for {asked}, but {field} is {name}: drop one of them")
    return None if name == "float32" else DTYPES[name]
