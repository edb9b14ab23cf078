"""The engine of several processes: each has some of the samples, and all of the weights or a part of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.device import DTYPES
from ironloom.objectives import Objective
from ironloom.parallel.apply import Spread, spread
from ironloom.parallel.gradients import GradientSums
from ironloom.parallel.recompute import recompute_blocks
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.device_options import check_spread, check_together, compiler_of, equip, precision, spread_options
from ironloom.trainer.engine import Batch, EvalStep, NativeEngine, placed
from ironloom.trainer.team_engine import SpreadEngine

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def make_engine(
    model: nn.Module, objective: Objective, args: TrainingArguments, parameters: DeviceParameters | None, team: Team
) -> NativeEngine:
    """Spread a model over the processes, if there are several, and the engine that trains it there.

    Raises:
        ConfigError: If the model or the precision does not go with the degrees.
    """
    given = parameters or DeviceParameters(param_dtype="float32")
    check_together(args, given, team)
    dtype = precision(args, parameters)
    if given.checkpoint_activations:
        recompute_blocks(model, given.recompute)
    if team.is_alone:
        model.to(team.device)
        engine = NativeEngine(model, objective, args, team.device)
        if compiler_of(args, given) is not None:
            engine.compile(args)
    else:
        parted = spread(model, team.place, team.device, **spread_options(args, given, team.place.degrees))
        check_spread(given, dtype, parted.is_sharded)
        engine = ParallelEngine(model, objective, args, team, parted)
        # Its hooks would be compiled with the rest.
        engine.overlaps = not given.compiled_autograd
        engine.reduce_dtype = None if given.reduce_dtype == "float32" else DTYPES[given.reduce_dtype]
    equip(engine, args, given, dtype)
    return engine


class ParallelEngine(SpreadEngine):
    """Engine of one process among several.

    Args:
        model: Spread over the processes.
        objective: Loss as sum and weight.
        args: Precision, compilation, kernels.
        team: The processes.
        spread: How the model is spread. Where its weights are in parts, gradients are summed in the backward pass.
    """

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, team: Team, spread: Spread):
        super().__init__(model, objective if spread.vocabulary is None else spread.vocabulary.objective(objective), args, team)
        self.is_sharded, self.context = spread.is_sharded, spread.context
        self.slices, self.vocabulary = spread.slices, spread.vocabulary
        self.reduce_dtype: torch.dtype | None = None
        #: Whether gradients are sent while others are still computed.
        self.overlaps = True

    def forward_backward(self, batches: Sequence[Batch | None], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate the gradient over the micro-batches of all processes; None stands for a batch that this one has nothing of."""
        loss_sum = super().forward_backward(batches, total, key, substep)
        if self.slices is not None:
            self.slices.sum_gradients(self._parameters, self.device)
        if self.is_sharded:
            return self._sum(loss_sum, self._group)
        return self._sums.finish(self._parameters, [loss_sum])[0]

    @functools.cached_property
    def _sums(self) -> GradientSums:
        """Of gradients, where all processes have whole weights; nothing else may come between them, so they have a group of their own."""
        import torch.distributed as dist

        return GradientSums(dist.new_group(), self.device, self.reduce_dtype)

    def _part(self, batch: Batch | None, divisor: float, key: int, is_last: bool) -> float:
        if batch is not None:
            self._pattern = batch
        is_armed = is_last and self.overlaps and not self.is_sharded
        with self._sums.armed(self._parameters) if is_armed else contextlib.nullcontext():
            return self._part_here(batch, divisor, key)

    def _part_here(self, batch: Batch | None, divisor: float, key: int) -> float:
        if batch is not None:
            return self._micro_batch(batch, divisor, key)
        if self.is_sharded:
            # Processes that gather weights from each other must all run the model, forward and backward.
            self.model.train()
            with self._together(), self.around():
                part, _ = self._run(self._seen(), divisor)
                (part * 0.0).backward()  # type: ignore[no-untyped-call]
        return 0.0

    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """Loss and logits of this process's part of a batch."""
        if batch is not None:
            self._pattern = batch
            with self._together(is_split=not keep_logits):
                return self._whole(super().evaluate(batch, keep_logits))
        if self.is_sharded:
            with self._together(is_split=not keep_logits):
                super().evaluate(self._seen(), keep_logits)
        return EvalStep(0.0, 0, None)

    def predict(self, batch: Batch) -> EvalStep:
        """Logits of this process's part of a batch without labels."""
        if self.context is None:
            return super().predict(batch)
        with self._together(is_split=False):
            return self._whole(super().predict(self.context.split(placed(batch, self.device))))

    def _run(self, batch: Batch, divisor: float) -> tuple[torch.Tensor, Any]:
        if self.context is not None:
            batch = self.context.split(placed(batch, self.device), self.objective)
        part, outputs = super()._run(batch, divisor)
        if self.slices is not None and self.vocabulary is None:
            # All processes that share layers compute the same loss, and what they give for a gradient is summed.
            part = self.slices.agreed(part)
        return part, outputs

    def _micro_batch(self, batch: Batch, divisor: float, key: int) -> float:
        with self._together():
            return super()._micro_batch(batch, divisor, key)

    def _together(self, is_split: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Within it, processes that share sequences compute together, forward and backward.

        Args:
            is_split: Whether the logits may be split, if they are to be for the loss.
        """
        stack = contextlib.ExitStack()
        if self.context is not None:
            stack.enter_context(self.context.running())
        if self.vocabulary is not None and is_split:
            stack.enter_context(self.vocabulary.running())
        return stack

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
        """What tells this process's random numbers from those of processes with other samples or other pieces of them.

        Processes that share layers draw the same, so that what each of them has as a whole stays the same; unless each has
        a slice of it.
        """
        if self.slices is not None and self.team.place.tp_rank:
            return (self._number, self.team.place.tp_rank)
        return (self._number,) if self._number else ()
