"""How the models of a step are spread over processes: the hooks in their order, and what each does by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.device import DTYPES
from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights
from ironloom.models.plan import blocks_of, split_plan_of
from ironloom.parallel.recompute import recompute_blocks
from ironloom.settings.dream.device import DeviceParameters
from ironloom.trainer.device_options import check_spread, compiler_of, precision, spread_options
from ironloom.trainer.dream.parallel_steps import ParallelStepEngine
from ironloom.trainer.dream.steps import StepEngine
from ironloom.weights.sharded import is_sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ironloom.trainer.dream.trainer import DreamTrainer

#: The hooks that change how models are spread, in the order in which they are called.
APPLY = (
    "apply_pipeline_parallel",
    "apply_tensor_parallel",
    "apply_activation_checkpointing",
    "apply_compile",
    "apply_fully_shard",
    "apply_replicate",
)

#: Settings of devices that only the default step has an effect of, and the values that ask for none.
_UNREAD = {
    "force_fsdp": False,
    "force_ddp": False,
    "reduce_dtype": "float32",
    "compiled_autograd": False,
    "activation_memory_budget": 1.0,
    "async_tensor_parallel": None,
    "sequence_parallel": False,
    "loss_parallel": False,
    "offload_optimizer": False,
}


def make_step_engine(trainer: DreamTrainer, models: dict[str, nn.Module], whole: nn.Module, overridden: set[str]) -> StepEngine:
    """Spread the models over the processes and make the engine that runs the trainer's steps on them.

    Args:
        trainer: With the hooks.
        models: By name.
        whole: All of them as one.
        overridden: The hooks of :data:`APPLY` that the user has written.

    Raises:
        ConfigError: If the models, the steps or the precision do not go with the degrees.
    """
    args, parameters, team = trainer.args, trainer.parameters, trainer.team
    _check_read(parameters)
    dtype = precision(args, parameters)
    degrees = team.place.degrees
    if degrees.pp > 1 or "apply_pipeline_parallel" in overridden:
        raise ConfigError(
            "a training_step of your own runs whole models: leave pipelines to the PipelineTrainer, or share weights by dp_shard"
        )
    if degrees.cp > 1:
        raise ConfigError("context_parallel_size above 1 cuts sequences, which only the default training_step knows: set it to 1")
    is_sharded = degrees.dp_shard > 1 or degrees.tp > 1 or parameters.offload_parameters
    check_spread(parameters, dtype, is_sharded)
    if team.is_alone:
        _apply_here(trainer)
        whole.to(team.device)
        engine = StepEngine(trainer, whole, args, team.device)
    else:
        _check_whole(models)
        if overridden:
            _apply(trainer, models, is_sharded)
        else:
            _spread(trainer, models)
        if is_sharded:
            _mark(trainer, models)
        from ironloom.parallel.apply import Spread

        engine = ParallelStepEngine(trainer, whole, args, team, Spread(is_sharded))
    engine.autocast_dtype = dtype
    return engine


def _check_read(parameters: DeviceParameters) -> None:
    """Refuse settings that have no effect on steps of the user's own.

    Raises:
        ConfigError: Naming all of them.
    """
    wanted = [name for name, default in _UNREAD.items() if getattr(parameters, name) != default]
    if parameters.activation_dtype not in (None, parameters.param_dtype):
        wanted.append("activation_dtype (other than param_dtype)")
    if wanted:
        raise ConfigError(f"not available with a training_step or apply_ hooks of your own: {', '.join(wanted)}; leave them out")


def _apply_here(trainer: DreamTrainer) -> None:
    """What makes sense in one process."""
    if trainer.parameters.checkpoint_activations:
        trainer.apply_activation_checkpointing()
    if _is_compiled(trainer):
        trainer.apply_compile()


def _is_compiled(trainer: DreamTrainer) -> bool:
    return compiler_of(trainer.args, trainer.parameters) is not None


def _check_whole(models: dict[str, nn.Module]) -> None:
    for name, model in models.items():
        if any(is_sharded(parameter) for parameter in model.parameters()):
            raise ConfigError(f"{name} is spread over processes already: leave that to the apply_ hooks")


def _spread(trainer: DreamTrainer, models: dict[str, nn.Module]) -> None:
    """All of it as every trainer does it."""
    from ironloom.parallel.apply import spread

    place, device = trainer.team.place, trainer.team.device
    if trainer.parameters.checkpoint_activations:
        trainer.apply_activation_checkpointing()
    for model in models.values():
        spread(model, place, device, **spread_options(trainer.args, trainer.parameters, place.degrees))


def _apply(trainer: DreamTrainer, models: dict[str, nn.Module], is_sharded: bool) -> None:
    """The hooks, those that are the user's own and the others, in their order."""
    from ironloom.parallel.gradients import broadcast_weights

    place, device = trainer.team.place, trainer.team.device
    for model in models.values():
        give_weights(model, device)  # hooks may do anything with them
        broadcast_weights(model, device)
        if not trainer.parameters.offload_parameters:
            model.to(device)
    if place.degrees.tp > 1:
        trainer.apply_tensor_parallel(place.axes("tp"))
    if trainer.parameters.checkpoint_activations:
        trainer.apply_activation_checkpointing()
    if _is_compiled(trainer):
        trainer.apply_compile()
    if is_sharded:
        trainer.apply_fully_shard(sharding_options(trainer))
        _sum_gradients(models)
    elif place.degrees.dp_replicate > 1:
        trainer.apply_replicate(place.axes("dp_replicate"))
        _check_not_replicated(models)


def _sum_gradients(models: dict[str, nn.Module]) -> None:
    """Gradients are summed over processes, not averaged: the step has divided them already."""
    from torch.distributed.fsdp import FSDPModule

    for name, model in models.items():
        sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        if not sharded and any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"apply_fully_shard left {name} whole, and its gradients would not be summed: call fully_shard on it")
        for module in sharded:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _check_not_replicated(models: dict[str, nn.Module]) -> None:
    """Refuse wrappers that average gradients: the trainer sums them, exactly."""
    for name, model in models.items():
        for module in model.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel) or hasattr(module, "_ddp") or "Replicate" in type(module).__name__:
                raise ConfigError(
                    f"apply_replicate has wrapped {name}, whose gradients would be averaged and then summed: the trainer sums them "
                    "itself, over exactly the samples of the step; leave the wrapper out"
                )


def _mark(trainer: DreamTrainer, models: dict[str, nn.Module]) -> None:
    """Let the methods that the user has named gather weights, as forward does."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    for path in trainer.mark_forward_methods():
        name, _, method = path.partition(".")
        if name not in models or not callable(getattr(models[name], method, None)):
            raise ConfigError(f"mark_forward_methods: there is no {path!r}; write MODEL.METHOD with a model of {', '.join(models)}")
        register_fsdp_forward_method(models[name], method)


def sharding_options(trainer: DreamTrainer) -> dict[str, Any]:
    """What ``fully_shard`` is called with: mesh, types, places."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

    name = trainer.parameters.param_dtype
    mesh = trainer.team.place.shards()
    dtype = None if name == "float32" else DTYPES[name]
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if trainer.parameters.offload_parameters else OffloadPolicy()
    # Inputs are left alone: what is computed in half precision is autocast's choice, as with one process.
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    return {"mesh": mesh, "mp_policy": policy, "offload_policy": offload}


class ApplyHooks(ABC):
    """What is done to models that are spread. Each hook may be overridden; the others stay as they are."""

    parameters: Any
    args: Any

    @abstractmethod
    def named_models(self) -> dict[str, nn.Module]:
        """The models by the names of their attributes."""

    def apply_pipeline_parallel(self, pp_mesh: DeviceMesh) -> None:
        """Cut models into stages. Not available here: an override is refused."""
        raise ConfigError("pipelines are the PipelineTrainer's: leave apply_pipeline_parallel out")

    def apply_tensor_parallel(self, tp_mesh: DeviceMesh) -> None:
        """Split the layers of each model, by the plan that it offers."""
        from ironloom.parallel.tensor import split_layers

        for model in self.named_models().values():
            split_layers(model, split_plan_of(model), tp_mesh)

    def apply_activation_checkpointing(self) -> None:
        """Recompute the activations of each model's blocks; called if ``checkpoint_activations`` is set."""
        for model in self.named_models().values():
            if any(parameter.requires_grad for parameter in model.parameters()):
                recompute_blocks(model, self.parameters.recompute)

    def apply_compile(self) -> None:
        """Compile each model's blocks, or the model where it has none; called if ``compile_model`` is set."""
        for model in self.named_models().values():
            for block in blocks_of(model).values() or [model]:
                block.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)

    def apply_fully_shard(self, config: dict[str, Any]) -> None:
        """Share the weights of each model's blocks, and the rest of it, among processes; called where weights are sharded.

        Args:
            config: Keyword arguments of ``torch.distributed.fsdp.fully_shard``.
        """
        from torch.distributed.fsdp import fully_shard

        for model in self.named_models().values():
            for block in blocks_of(model).values():
                fully_shard(block, **config)
            fully_shard(model, **config)

    def apply_replicate(self, mesh: DeviceMesh) -> None:  # noqa: B027 - by default there is nothing to do
        """Prepare models of which every process has a copy. Nothing: the trainer sums their gradients, without a wrapper."""

    def mark_forward_methods(self) -> list[str]:
        """Methods besides ``forward`` that use weights, as ``MODEL.METHOD``; needed where weights are sharded."""
        return []
