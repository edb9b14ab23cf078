"""What the engine of a pipeline is told by the arguments, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ironloom.device import DTYPES
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
from ironloom.trainer.device_options import compiler_of, precision

#: Settings that have no effect within stages, and the values that ask for none.
_NOT_IN_STAGES = {
    "force_fsdp": False,
    "force_ddp": False,
    "compiled_autograd": False,
    "async_tensor_parallel": None,
    "sequence_parallel": False,
    "loss_parallel": False,
    "activation_memory_budget": 1.0,
}


def checked_objective(objective: Objective, degrees: Degrees) -> OutputObjective:
    """The objective, if it can be computed where the last stage is, and of pieces of sequences where there are such.

    Raises:
        ConfigError: If it cannot.
    """
    if degrees.cp > 1:
        check_pieces(objective)
    return check_objective(objective)


def stage_precision(args: PipelineTrainingArguments, parameters: DeviceParameters | None) -> torch.dtype | None:
    """The type of the stages' arithmetic, None for float32.

    Raises:
        ConfigError: For one that stages cannot have.
    """
    dtype = precision(args, parameters)
    if dtype is torch.float16:
        raise ConfigError("the loss scaler of float16 does not know of stages on other processes: use bfloat16")
    return dtype


def stage_options(args: PipelineTrainingArguments, parameters: DeviceParameters) -> dict[str, Any]:
    """How the stages are spread: options of ``spread_stages``.

    Raises:
        ConfigError: For what has no effect within stages.
    """
    wanted = [name for name, default in _NOT_IN_STAGES.items() if getattr(parameters, name) != default]
    if wanted:
        raise ConfigError(f"a pipeline does not go together with {', '.join(wanted)}: leave these out, or set pipeline_parallel_size to 1")
    return {
        "recompute": parameters.recompute if parameters.checkpoint_activations else None,
        "offload": parameters.offload_parameters,
        "compiler": compiler_of(args, parameters),
        "reduce_dtype": DTYPES[parameters.reduce_dtype],
        "rotation": parameters.context_parallel_rotate_method,
    }


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
