"""The ``Accelerator`` of a trainer: made from its arguments, or given, and then compared with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ironloom.errors import ConfigError, Problem
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.settings.accel import REFUSED, AccelTrainingArguments, precision_name

if TYPE_CHECKING:
    from accelerate import Accelerator

#: What ``accelerate launch`` asks for in the environment, and the argument of the Accelerator that it stands for.
_LAUNCHED = {
    "ACCELERATE_USE_DEEPSPEED": "deepspeed_plugin",
    "ACCELERATE_USE_FSDP": "fsdp_plugin",
    "ACCELERATE_USE_MEGATRON_LM": "megatron_lm_plugin",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}


class Accelerated:
    """An Accelerator, and the state that Accelerate keeps beside it for the whole process.

    That state says what every Accelerator of a process is like. One that a trainer makes for itself has its own: it is
    in force while the trainer trains or evaluates, so that neither another trainer nor the user's own code meets it.

    Args:
        accelerator: One that the user has made; its state is the process's.
    """

    def __init__(self, accelerator: Accelerator | None = None):
        self._states: dict[type, dict[str, Any]] | None = None if accelerator is not None else {}
        self._accelerator = accelerator

    @property
    def accelerator(self) -> Accelerator:
        """The Accelerator."""
        assert self._accelerator is not None, "made before it is used"
        return self._accelerator

    def make(self, args: AccelTrainingArguments, environment: DistributedEnvironment) -> None:
        """Make the Accelerator of this process among those of ``environment``, whose process group is there."""
        from accelerate import Accelerator

        with self.in_force(), _variables(environment):
            self._accelerator = Accelerator(
                cpu=environment.device_type == "cpu",
                mixed_precision=precision_name(args),
                gradient_accumulation_steps=args.gradient_accumulation_steps,
                kwargs_handlers=(args.accelerator_args or {}).get("kwargs_handlers"),
            )

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Within the block Accelerate's state is that of this Accelerator."""
        if self._states is None:
            yield
            return
        from accelerate.state import AcceleratorState, GradientState, PartialState

        kinds: tuple[Any, ...] = (PartialState, AcceleratorState, GradientState)
        before = [kind._shared_state for kind in kinds]
        for kind in kinds:
            kind._shared_state = self._states.setdefault(kind, {})
        try:
            yield
        finally:
            for kind, state in zip(kinds, before, strict=True):
                kind._shared_state = state


@contextlib.contextmanager
def _variables(environment: DistributedEnvironment) -> Iterator[None]:
    """Within the block the environment tells Accelerate the place of this process, however it was started, and nothing else."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")) or name in (
            "RANK",
            "LOCAL_RANK",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
        ):
            del os.environ[name]
    if environment.world_size > 1:
        place = {
            "RANK": environment.rank,
            "LOCAL_RANK": environment.local_rank,
            "WORLD_SIZE": environment.world_size,
            "LOCAL_WORLD_SIZE": environment.local_world_size,
        }
        os.environ.update({name: str(number) for name, number in place.items()})
    # Where it is not set, Accelerate would set the number of threads.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        yield
    finally:
        # One by one: other threads may look at what has not changed.
        for name in {*before, *os.environ}:
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]


def take_launched(args: AccelTrainingArguments, variables: Mapping[str, str]) -> None:
    """Take up what ``accelerate launch`` was told, as far as the arguments say nothing of it.

    Raises:
        ConfigError: If it was told what cannot be had, or something else than the arguments.
    """
    problems = [_refused(name, variable) for variable, name in _LAUNCHED.items() if _is_true(variables.get(variable))]
    if variables.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        problems.append(_refused("dynamo_backend", "ACCELERATE_DYNAMO_BACKEND"))
    problems += _compared(
        args,
        variables.get("ACCELERATE_MIXED_PRECISION", "no"),
        variables.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
        "accelerate launch",
    )
    on_cpu = _is_true(variables.get("ACCELERATE_USE_CPU"))
    if on_cpu and (args.accelerator_args or {}).get("cpu") is False:
        problems.append(Problem("is false, but accelerate launch was told to stay on the CPU", path="accelerator_args.cpu", hint="drop it"))
    if problems:
        raise ConfigError(problems)
    args.use_cpu = args.use_cpu or on_cpu


def take_given(args: AccelTrainingArguments, accelerator: Any) -> None:
    """Take up what an Accelerator was made with, as far as the arguments say nothing of it.

    Raises:
        ConfigError: If it was made with what cannot be had, or with something else than the arguments.
    """
    from accelerate import Accelerator, DistributedType
    from accelerate.utils import DynamoBackend

    if not isinstance(accelerator, Accelerator):
        raise ConfigError(f"accelerator must be an accelerate.Accelerator, found {type(accelerator).__name__}")
    if args.accelerator_args:
        raise ConfigError("accelerator_args are for an Accelerator that the trainer makes: give either them or accelerator")
    kinds = {
        DistributedType.DEEPSPEED: "deepspeed_plugin",
        DistributedType.FSDP: "fsdp_plugin",
        DistributedType.MEGATRON_LM: "megatron_lm_plugin",
    }
    problems = []
    if accelerator.distributed_type in kinds:
        problems.append(_refused(kinds[accelerator.distributed_type], "accelerator"))
    elif _is_true(os.environ.get("ACCELERATE_USE_FSDP")):  # on the CPU this word is all that is left of a plugin
        problems.append(_refused("fsdp_plugin", "accelerator"))
    if accelerator.parallelism_config is not None:
        problems.append(_refused("parallelism_config", "accelerator"))
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        problems.append(_refused("dynamo_backend", "accelerator"))
    loading, batch = accelerator.dataloader_config, "per_device_train_batch_size is what each process takes"
    for is_so, what, hint in (
        (not accelerator.device_placement, "device_placement=False", "the trainer puts model and batches on its device"),
        (not accelerator.step_scheduler_with_optimizer, "step_scheduler_with_optimizer=False", "the schedule steps with the optimizer"),
        (accelerator.gradient_state.plugin_kwargs.get("sync_each_batch"), "sync_each_batch=True", "gradients are summed once a step"),
        (loading.split_batches, "split_batches=True", f"{batch}: divide it by the number of processes instead"),
        (loading.data_seed not in (None, args.data_seed), f"data_seed={loading.data_seed}", "set data_seed in the arguments"),
    ):
        if is_so:
            problems.append(Problem(f"was made with {what}", path="accelerator", hint=hint))
    problems += _compared(args, accelerator.mixed_precision, str(accelerator.gradient_accumulation_steps), "the Accelerator")
    if problems:
        raise ConfigError(problems)


def _compared(args: AccelTrainingArguments, precision: str, accumulation: str, who: str) -> list[Problem]:
    """Take up a precision; problems where it, or the accumulation, is not that of the arguments."""
    problems, asked = [], precision_name(args)
    if precision not in ("no", "fp16", "bf16"):
        problems.append(Problem(f"{who} asks for {precision}: the trainer knows fp16 and bf16 alone", path="mixed_precision"))
    elif precision != "no" and asked not in ("no", precision):
        problems.append(
            Problem(f"the arguments ask for {asked}, but {who} for {precision}", path="mixed_precision", hint="drop one of them")
        )
    elif precision != "no":
        args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    if accumulation not in ("1", str(args.gradient_accumulation_steps)):
        problems.append(
            Problem(
                f"the arguments accumulate {args.gradient_accumulation_steps} batches, but {who} {accumulation}",
                path="gradient_accumulation_steps",
                hint=f"set gradient_accumulation_steps={accumulation} in the arguments, or leave it out there",
            )
        )
    return problems


def check_place(accelerator: Accelerator, environment: DistributedEnvironment) -> None:
    """Refuse an Accelerator that does not see the processes that were started.

    Raises:
        ConfigError: Saying what it sees.
    """
    found, there = (accelerator.process_index, accelerator.num_processes), (environment.rank, environment.world_size)
    if found != there:
        hint = "; on the CPU it must be made with cpu=True to see the others" if accelerator.device.type == "cpu" else ""
        raise ConfigError(f"the Accelerator is process {found[0]} of {found[1]}, but this is process {there[0]} of {there[1]}{hint}")


def check_handlers(accelerator: Accelerator) -> None:
    """Refuse handlers that have no place in the trainer, or would make a resumed run another one.

    Raises:
        ConfigError: With every problem.
    """
    from accelerate.utils import DDPCommunicationHookType

    problems = []
    hints = dict.fromkeys(
        ["fp8_recipe_handler", "ao_recipe_handler", "te_recipe_handler", "msamp_recipe_handler"], "the trainer knows fp16 and bf16 alone"
    )
    hints["autocast_handler"] = "arithmetic of half precision is that of bf16 and fp16 of the arguments"
    hints["profile_handler"] = "use ironloom.callbacks:ProfileCallback"
    for name, hint in hints.items():
        handler = getattr(accelerator, name)
        if handler is not None:
            problems.append(Problem(f"{type(handler).__name__} has no effect here", path="kwargs_handlers", hint=hint))
    ddp, scaler = accelerator.ddp_handler, accelerator.scaler_handler
    if ddp is not None and ddp.static_graph:
        problems.append(
            Problem("static_graph would sum the first step after a resume in another order", path="kwargs_handlers", hint="leave it out")
        )
    if ddp is not None and ddp.comm_hook in (DDPCommunicationHookType.POWER_SGD, DDPCommunicationHookType.BATCHED_POWER_SGD):
        problems.append(Problem("PowerSGD keeps a state that no checkpoint has", path="kwargs_handlers", hint="take fp16 or bf16"))
    if scaler is not None and not scaler.enabled:
        problems.append(
            Problem("fp16 without a scaler loses small gradients", path="kwargs_handlers", hint="leave enabled=False out, or take bf16")
        )
    if problems:
        raise ConfigError(problems)


def _refused(name: str, path: str) -> Problem:
    reason, hint = REFUSED[name]
    return Problem(f"{name} cannot be had: {reason}", path=path, hint=hint)


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes", "y", "t", "on")
