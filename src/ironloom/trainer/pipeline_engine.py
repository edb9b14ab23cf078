"""The engine of a model whose layers are on several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ironloom.device import DTYPES, seed_everything
from ironloom.objectives import Objective
from ironloom.parallel.gradients import sum_gradients
from ironloom.parallel.pipeline.apply import spread_stages
from ironloom.parallel.pipeline.chunks import part_of_batch
from ironloom.parallel.pipeline.loss import Outputs
from ironloom.parallel.pipeline.outline import plan_anywhere
from ironloom.parallel.pipeline.runner import Layout, PipelineRunner
from ironloom.parallel.pipeline.shared import SharedParameters, holders
from ironloom.parallel.pipeline.stage import StageModule
from ironloom.parallel.team import Team
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.trainer.device_options import check_together, equip
from ironloom.trainer.diagnose import no_gradient, token_error
from ironloom.trainer.engine import Batch, EvalStep, placed
from ironloom.trainer.pipeline_options import check_trained, checked_choice, checked_objective, stage_options, stage_precision
from ironloom.trainer.team_engine import SpreadEngine


class PipelineEngine(SpreadEngine):
    """Engine of one process of a pipeline, and of one of several equal pipelines where there is data parallelism.

    Args:
        model: Whole, in every process. What this process's stages do not use is dropped from it.
        objective: Loss as sum and weight, from logits.
        args: The pipeline, precision, kernels.
        team: The processes.
        first_batch: Shows what the model is called with.
        pipe_schedule_factory: Makes the schedule, instead of the class that ``args`` names.
        parameters: Precision and memory; None: as ``args`` says.

    Raises:
        ConfigError: If the model, the schedule and the processes do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        args: PipelineTrainingArguments,
        team: Team,
        first_batch: Batch,
        pipe_schedule_factory: Callable[..., Any] | None = None,
        parameters: DeviceParameters | None = None,
    ):
        given = parameters or DeviceParameters(param_dtype="float32")
        place, options, dtype = team.place, stage_options(args, given), stage_precision(args, parameters)
        check_together(args, given, team)
        self._loss = checked_objective(objective, place.degrees)
        choice = checked_choice(args, pipe_schedule_factory, place.degrees.pp)
        super().__init__(model, objective, args, team)
        equip(self, args, given, dtype)
        self._reduce_dtype = None if given.reduce_dtype == "float32" else DTYPES[given.reduce_dtype]
        self._pipeline = place.group("pp")
        layout = Layout(place.degrees.pp, args.stages_per_rank, choice.is_v)
        with self._numerics():
            plans = plan_anywhere(model, self._loss.inputs(first_batch), layout.num_stages, self.device, args.split_spec)
        mine = [plans[index] for index in layout.stages_of(place.pp_rank)]
        made = spread_stages(model, mine, place, self.device, **options)
        self._sharded, self.context = made.sharded, made.context
        check_trained(model, team)
        self._shared = SharedParameters.of(model, holders(plans, layout), place.pp_rank, _pipelines(team))
        names = dict(model.named_parameters())
        self._uncounted = {id(names[name]) for name in self._shared.not_counted}
        recompute = args.checkpoint_sequential and not options["recompute"]
        stages = [StageModule(model, plan, recompute, self._numerics) for plan in mine]
        self.runner = PipelineRunner(stages, plans, layout, self._pipeline, self.device, choice, args.pipeline_chunks)

    def forward_backward(self, batches: Sequence[Batch | None], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate the gradient over the micro-batches of all processes; None stands for a batch that this one has nothing of."""
        with self._gathered():
            loss_sum = super().forward_backward(batches, total, key, substep)
            if self._sharded is None:
                sums = sum_gradients(self._parameters, self._group, [loss_sum], self.device, self._reduce_dtype)
            else:
                sums = self._sharded.reduce(self._group, [loss_sum], self.device)
        # Last, because all processes get the same bits of one sum, and so their copies stay the same.
        self._shared.sum_gradients(self.device)
        return self._from_last(sums)[0]

    def _gathered(self) -> contextlib.AbstractContextManager[None]:
        """Within it, this process has the whole weights of its stages."""
        return contextlib.nullcontext() if self._sharded is None else self._sharded.gathered()

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Within it, processes that share sequences compute together, forward and backward."""
        return contextlib.nullcontext() if self.context is None else self.context.running()

    def _mine(self, batch: Batch, objective: Objective | None) -> Batch:
        """This process's part of the sequences of a batch."""
        return batch if self.context is None else self.context.split(batch, objective)

    def _micro_batch(self, batch: Batch, divisor: float, key: int) -> float:
        """Forward and backward of one batch through all stages; its loss sum where the last stage is, else 0."""
        if not self.model.training:
            self.model.train()
        seed_everything(key)
        batch = self._mine(placed(batch, self.device), self.objective)
        inputs, sums = self._loss.inputs(batch), [torch.zeros((), device=self.device)]
        rows = -(-_samples(batch) // self.runner.num_chunks)

        def loss(logits: torch.Tensor, chunk: int) -> torch.Tensor:
            part = part_of_batch(batch, chunk, rows)
            if not _samples(part) or not self._weight(part):
                return (logits * 0).sum().float()
            with self._numerics():
                loss_sum = self._loss.loss_sum(Outputs(logits=logits[: _samples(part)]), part, divisor)
            if not loss_sum.requires_grad:
                raise no_gradient()
            sums.append(loss_sum.detach())
            return loss_sum / divisor

        with _tokens_named(self.model, batch), self._together():
            self.runner.train(inputs, loss)
        return torch.stack(sums).sum().item()

    @torch.no_grad()
    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """Loss of a batch, and its logits if they are wanted, in every process of the pipeline."""
        with self._gathered():
            if batch is None:
                return EvalStep(0.0, 0, None)
            batch = placed(batch, self.device)
            weight, part = self._weight(batch), self._mine(batch, self.objective)
            logits = self._logits(part)
        loss_sum = 0.0
        if logits is not None:
            with self._numerics():
                loss_sum = self._loss.loss_sum(Outputs(logits=logits), part, weight or 1).item()
        return EvalStep(self._from_last([loss_sum], over_pieces=True)[0], weight, self._everywhere(logits) if keep_logits else None)

    @torch.no_grad()
    def predict(self, batch: Batch) -> EvalStep:
        """Logits of a batch without labels."""
        with self._gathered():
            return EvalStep(0.0, 0, self._everywhere(self._logits(self._mine(placed(batch, self.device), None))))

    def _logits(self, batch: Batch) -> torch.Tensor | None:
        with _tokens_named(self.model, batch), self._together():
            return self.runner.forward(self._loss.inputs(batch))

    def _from_last(self, numbers: list[float], over_pieces: bool = False) -> list[float]:
        """Numbers that the process with the last stage knows; their sums over the pieces of sequences, if wanted."""
        import torch.distributed as dist

        sent = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if over_pieces and self.context is not None:
            dist.all_reduce(sent, group=self.context.group)
        dist.broadcast(sent, group=self._pipeline, group_src=self.runner.last_rank)
        received: list[float] = sent.tolist()
        return received

    def _everywhere(self, logits: torch.Tensor | None) -> torch.Tensor:
        """Logits that the processes with the last stage have, in all of the pipeline."""
        import torch.distributed as dist

        about: list[Any] = [None if logits is None else (logits.shape, logits.dtype)]
        dist.broadcast_object_list(about, group=self._pipeline, group_src=self.runner.last_rank, device=self.device)
        shape, dtype = about[0]
        sent = torch.empty(shape, dtype=dtype, device=self.device) if logits is None else logits.contiguous()
        dist.broadcast(sent, group=self._pipeline, group_src=self.runner.last_rank)
        return sent if self.context is None else self.context.join(sent)

    def _norm(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """L2 norm of tensors of all stages together."""
        import torch.distributed as dist

        square = super()._norm(tensors).to(self.device, torch.float64) ** 2
        dist.all_reduce(square, group=self._pipeline)
        return square.sqrt()

    def _counted(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Some parameters without those that another process of the pipeline counts."""
        return [parameter for parameter in parameters if id(parameter) not in self._uncounted]

    @property
    def _stream(self) -> tuple[int, ...]:
        """What tells this process's random numbers from those of processes with other samples, pieces of them or layers."""
        pp_rank = self.team.place.pp_rank
        return (self._number, pp_rank) if self._number or pp_rank else ()


class _tokens_named:  # noqa: N801 - used as a function
    """A token that no embedding has is a mistake in the data, and is said so."""

    def __init__(self, model: nn.Module, batch: Mapping[str, Any]):
        self._model, self._batch = model, batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (IndexError, RuntimeError)) and (named := token_error(self._model, self._batch)) is not None:
            raise named from error


def _samples(batch: Mapping[str, Any]) -> int:
    return next((len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), 0)


def _pipelines(team: Team) -> list[list[int]]:
    """Global ranks of every pipeline."""
    mesh = team.place.mesh
    assert mesh is not None, "several processes have a mesh"
    ranks: list[list[int]] = mesh.mesh.flatten(1).T.tolist()
    return ranks
