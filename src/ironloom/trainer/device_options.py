"""What device parameters ask beside the parallel sizes: types, and the compiler's options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ironloom.device import DTYPES
from ironloom.errors import ConfigError
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments


def check_together(parameters: DeviceParameters, team: Team) -> None:
    """Refuse options that this device or these processes cannot have.

    Raises:
        ConfigError: Naming the option, and what to do.
    """
    degrees = team.place.degrees
    for name in ("sequence_parallel", "loss_parallel"):
        if getattr(parameters, name) and degrees.pp > 1:
            raise ConfigError(
                f"{name} does not go together with pipeline_parallel_size {degrees.pp}: leave {name} out, or set that size to 1"
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
