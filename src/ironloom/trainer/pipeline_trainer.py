"""The trainer of models that are cut into stages: the one loop over the pipeline engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.parallel.mesh import degrees_of
from ironloom.parallel.pipeline.loss import objective_of
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.pipeline import PipelineTrainingArguments, pipeline_problems
from ironloom.settings.training import arguments_of
from ironloom.trainer.trainer import Trainer


class PipelineTrainer(Trainer):
    """Trains a model whose layers are spread over processes.

    Takes the arguments of :class:`Trainer` and:

    Args:
        distributed_env: The place of this process among all.
        loss_fn: ``f(logits, labels)``, the mean over the targets; None: cross entropy of the next token.
        pipe_schedule_factory: Called as ``f(stage or stages, n_microbatches, loss_fn=, scale_grads=)``, instead of the
            class that ``schedule_class`` names; a class of ``torch.distributed.pipelining``, or a partial of one.

    Raises:
        ConfigError: For arguments that do not fit each other or the number of processes.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: dict[str, Any] | PipelineTrainingArguments | None = None,
        *rest: Any,
        distributed_env: DistributedEnvironment,
        loss_fn: Callable[..., torch.Tensor] | None = None,
        pipe_schedule_factory: Callable[..., Any] | None = None,
        device_parameters: DeviceParameters | None = None,
        **kwargs: Any,
    ):
        arguments = arguments_of(PipelineTrainingArguments, args)
        if loss_fn is not None and kwargs.get("compute_loss_func") is not None:
            raise ConfigError("give one of loss_fn and compute_loss_func")
        self.loss_fn = loss_fn
        self.pipe_schedule_factory = pipe_schedule_factory
        parameters = _device_parameters(device_parameters, arguments, distributed_env.world_size)
        ranks = degrees_of(parameters, distributed_env.world_size).pp
        problems = list(pipeline_problems(arguments, ranks)) if pipe_schedule_factory is None and ranks > 1 else []
        if problems:
            raise ConfigError(problems)
        super().__init__(model, arguments, *rest, device_parameters=parameters, **kwargs)
        self.environment, self.device = distributed_env, distributed_env.device
        self._tell_place()

    def _objective(self, loader: Any) -> Any:
        if self.loss_fn is None:
            return super()._objective(loader)
        return objective_of(self.loss_fn, (self.args.label_names or ["labels"])[0])


def _device_parameters(given: DeviceParameters | None, args: PipelineTrainingArguments, world: int) -> DeviceParameters:
    """The mesh: a pipeline over all processes, or as many pipelines of the wanted size as there is room for."""
    if given is None:
        size = args.pipeline_parallel_size or world
        if world % size:
            nearest = max(divisor for divisor in range(1, size + 1) if world % divisor == 0)
            raise ConfigError(
                f"pipeline_parallel_size: {world} processes cannot be pipelines of {size}: set it to {nearest}, or start {size} processes"
            )
        return DeviceParameters(pipeline_parallel_size=size, dp_replicate=world // size, param_dtype="bfloat16" if args.bf16 else "float32")
    other = given.pipeline_parallel_size
    if args.pipeline_parallel_size not in (None, other):
        raise ConfigError(f"pipeline_parallel_size is {args.pipeline_parallel_size} in args and {other} in device_parameters: drop one")
    return given
