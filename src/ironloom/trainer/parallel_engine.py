"""The engine of several processes: each has some of the samples, and all of the weights or a part of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.device import DTYPES, random_key
from ironloom.errors import ConfigError, DataError
from ironloom.objectives import Objective
from ironloom.parallel.apply import Spread, spread
from ironloom.parallel.gradients import sum_gradients
from ironloom.parallel.norms import local, scale, total_norm
from ironloom.parallel.recompute import recompute_blocks
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.engine import Batch, EvalStep, NativeEngine, placed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


#: Settings that have no effect yet, and the values that ask for none.
_NOT_YET = {
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


def make_engine(
    model: nn.Module, objective: Objective, args: TrainingArguments, parameters: DeviceParameters | None, team: Team
) -> NativeEngine:
    """Spread a model over the processes, if there are several, and the engine that trains it there.

    Raises:
        ConfigError: If the model or the precision does not go with the degrees.
    """
    if parameters is not None:
        check_available(parameters)
    dtype = precision(args, parameters)
    compiled = args.torch_compile or (parameters is not None and parameters.compile_model)
    if parameters is not None and parameters.checkpoint_activations:
        recompute_blocks(model)
    if team.is_alone:
        model.to(team.device)
        engine = NativeEngine(model, objective, args, team.device)
        if compiled:
            engine.compile(args)
    else:
        degrees = team.place.degrees
        if args.fp16 and (degrees.dp_shard > 1 or degrees.tp > 1):
            raise ConfigError("fp16 needs whole weights in every process: use bf16, or dp_replicate alone")
        options = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode} if compiled else None
        offload = parameters is not None and parameters.offload_parameters
        engine = ParallelEngine(model, objective, args, team, spread(model, team.place, team.device, dtype, offload, options))
    engine.autocast_dtype = dtype
    return engine


def check_available(parameters: DeviceParameters) -> None:
    """Refuse what the engines cannot do yet.

    Raises:
        ConfigError: Naming all of it.
    """
    wanted = [name for name, default in _NOT_YET.items() if getattr(parameters, name) != default]
    if parameters.activation_dtype not in (None, parameters.param_dtype):
        wanted.append("activation_dtype (other than param_dtype)")
    if wanted:
        raise ConfigError(f"not available yet: {', '.join(wanted)}; leave them out")


def precision(args: TrainingArguments, parameters: DeviceParameters | None) -> torch.dtype | None:
    """The type of the arithmetic, None for float32.

    Raises:
        ConfigError: If the two say different things.
    """
    asked = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    if parameters is None:
        name = asked or "float32"
    elif asked in (None, parameters.param_dtype):
        name = parameters.param_dtype
    else:
        raise ConfigError(f"the arguments ask for {asked}, but param_dtype is {parameters.param_dtype}: drop one of them")
    return None if name == "float32" else DTYPES[name]


class ParallelEngine(NativeEngine):
    """Engine of one process among several.

    Args:
        model: Spread over the processes.
        objective: Loss as sum and weight.
        args: Precision, compilation, kernels.
        team: The processes.
        spread: How the model is spread. Where its weights are in parts, gradients are summed in the backward pass.
    """

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, team: Team, spread: Spread):
        super().__init__(model, objective, args, team.device)
        self.team = team
        self.is_sharded, self.context = spread.is_sharded, spread.context
        # Those whose losses and gradients are parts of a sum: they have other samples, or other pieces of the same.
        self._group = team.place.group("dp_replicate", "dp_shard", "cp")
        self._pattern: Batch | None = None

    def weight(self, batches: Sequence[Batch | None]) -> int:
        """Targets of the micro-batches of all processes."""
        (total,) = self.team.sum([super().weight([batch for batch in batches if batch is not None])])
        return int(total)

    def forward_backward(self, batches: Sequence[Batch | None], total: int, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate the gradient over the micro-batches of all processes; None stands for a batch that this one has nothing of."""
        divisor, loss_sum = max(total, 1), 0.0
        for index, batch in enumerate(batches):
            if index:
                substep()
            loss_sum += self._part(batch, divisor, random_key(*key, index, *self._stream))
        if self.is_sharded:
            return self._sum(loss_sum, self._group)
        return sum_gradients(self._parameters, self._group, [loss_sum], self.device)[0]

    def _part(self, batch: Batch | None, divisor: int, key: int) -> float:
        if batch is not None:
            self._pattern = batch
            return self._micro_batch(batch, divisor, key)
        if self.is_sharded:
            # Processes that gather weights from each other must all run the model, forward and backward.
            self.model.train()
            with self._together():
                part, _ = self._run(self._seen(), divisor)
                (part * 0.0).backward()  # type: ignore[no-untyped-call]
        return 0.0

    def clip(self, max_norm: float | None, want_norm: bool) -> float | None:
        """Clip by the L2 norm of the whole gradient, wherever its parts are."""
        if not max_norm and not want_norm:
            return None
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        value = total_norm(gradients).item()
        if max_norm and math.isfinite(value) and value > max_norm:
            scale(gradients, max_norm, value)
        return value

    def parameter_norm(self) -> float:
        """L2 norm of all trained parameters, wherever their parts are."""
        return total_norm(self._parameters).item()

    def is_finite(self) -> bool:
        """Whether every weight in every process is a finite number."""
        mine = all(bool(torch.isfinite(local(parameter)).all()) for parameter in self._parameters)
        return not self.team.any([not mine])[0]

    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """Loss and logits of this process's part of a batch."""
        if batch is not None:
            self._pattern = batch
            with self._together():
                return self._whole(super().evaluate(batch, keep_logits))
        if self.is_sharded:
            with self._together():
                super().evaluate(self._seen(), keep_logits)
        return EvalStep(0.0, 0, None)

    def predict(self, batch: Batch) -> EvalStep:
        """Logits of this process's part of a batch without labels."""
        if self.context is None:
            return super().predict(batch)
        with self._together():
            return self._whole(super().predict(self.context.split(placed(batch, self.device))))

    def _run(self, batch: Batch, divisor: int) -> tuple[torch.Tensor, Any]:
        if self.context is None:
            return super()._run(batch, divisor)
        return super()._run(self.context.split(placed(batch, self.device), self.objective), divisor)

    def _micro_batch(self, batch: Batch, divisor: int, key: int) -> float:
        with self._together():
            return super()._micro_batch(batch, divisor, key)

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Within it, processes that share sequences compute together, forward and backward."""
        return contextlib.nullcontext() if self.context is None else self.context.running()

    def _whole(self, step: EvalStep) -> EvalStep:
        """What processes that share sequences have of a batch, put together."""
        if self.context is None:
            return step
        logits = None if step.logits is None else self.context.join(step.logits)
        return EvalStep(self._sum(step.loss_sum, self.team.place.group("cp")), step.weight, logits)

    def _sum(self, value: float, group: ProcessGroup) -> float:
        import torch.distributed as dist

        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(number, group=group)
        return number.item()

    @property
    def _stream(self) -> tuple[int, ...]:
        """What tells this process's random numbers from those of processes with other samples or other pieces of them."""
        place = self.team.place
        number = place.data_rank * place.degrees.cp + place.cp_rank
        return (number,) if number else ()

    def _seen(self) -> Batch:
        """A batch that this process had before, in the place of one that it has nothing of."""
        if self._pattern is None:
            raise DataError(
                f"the data has fewer samples than the {self.team.place.data_size} processes that share them: use fewer processes"
            )
        return self._pattern
