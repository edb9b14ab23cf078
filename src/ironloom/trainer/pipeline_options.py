"""What the engine of a pipeline is told by the arguments, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.objectives import Objective
from ironloom.objectives.base import OutputObjective
from ironloom.parallel.context_batch import check_objective as check_pieces
from ironloom.parallel.mesh import Degrees
from ironloom.parallel.pipeline.loss import check_objective
from ironloom.parallel.pipeline.schedules import ScheduleChoice, schedule_choice
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.pipeline import PipelineTrainingArguments, pipeline_problems
from ironloom.trainer.parallel_engine import precision

#: Settings that have no effect within stages, and the values that ask for none.
_NOT_IN_STAGES = {
    "force_fsdp": False,
    "force_ddp": False,
    "reduce_dtype": "float32",
    "compiled_autograd": False,
    "async_tensor_parallel": None,
    "loss_parallel": False,
    "context_parallel_rotate_method": "allgather",
    "activation_memory_budget": 1.0,
    "offload_optimizer": False,
}


def checked_objective(objective: Objective, degrees: Degrees) -> OutputObjective:
    """The objective, if it can be computed where the last stage is, and of pieces of sequences where there are such.

    Raises:
        ConfigError: If it cannot.
    """
    if degrees.cp > 1:
        check_pieces(objective)
    return check_objective(objective)


def stage_options(args: PipelineTrainingArguments, parameters: DeviceParameters | None) -> dict[str, Any]:
    """How the stages compute (``dtype``) and are spread (the rest: options of ``spread_stages``).

    Raises:
        ConfigError: For what has no effect within stages.
    """
    if parameters is not None:
        _check_available(parameters)
    dtype = precision(args, parameters)
    if dtype is torch.float16:
        raise ConfigError("the loss scaler of float16 does not know of stages on other processes: use bfloat16")
    is_compiled = args.torch_compile or (parameters is not None and parameters.compile_model)
    return {
        "dtype": dtype,
        "recompute": parameters is not None and parameters.checkpoint_activations,
        "offload": parameters is not None and parameters.offload_parameters,
        "compiler": {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode} if is_compiled else None,
    }


def _check_available(parameters: DeviceParameters) -> None:
    wanted = [name for name, default in _NOT_IN_STAGES.items() if getattr(parameters, name) != default]
    if parameters.activation_dtype not in (None, parameters.param_dtype):
        wanted.append("activation_dtype (other than param_dtype)")
    if wanted:
        raise ConfigError(f"a pipeline does not go together with {', '.join(wanted)}: leave these out, or set pipeline_parallel_size to 1")


def checked_choice(args: PipelineTrainingArguments, factory: Callable[..., Any] | None, ranks: int) -> ScheduleChoice:
    """The schedule, if it goes with the arguments.

    Raises:
        ConfigError: If there is none of that name, or if it does not fit.
    """
    choice = schedule_choice(args.schedule_class, factory, args.stages_per_rank)
    if choice.name is not None:
        problems = list(pipeline_problems(dataclasses.replace(args, schedule_class=choice.name), ranks))
        if problems:
            raise ConfigError(problems)
    return choice


def check_trained(model: nn.Module, team: Team) -> None:
    """Refuse a process without anything to train: it could have no optimizer.

    Raises:
        ConfigError: In every process.
    """
    has_none = not any(parameter.requires_grad for parameter in model.parameters())
    if team.any([has_none])[0]:
        where = "this process's stages hold" if has_none else "the stages of another process hold"
        raise ConfigError(f"{where} no trainable parameter: use fewer stages, or cut with split_spec so that each process trains something")
