"""Batches through the stages of several processes, with the schedules of ``torch.distributed.pipelining``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage

from ironloom.errors import ConfigError
from ironloom.parallel.pipeline.chunks import Chunks
from ironloom.parallel.pipeline.schedules import ScheduleChoice
from ironloom.parallel.pipeline.stage import StageModule, StagePlan

#: Shapes of batches whose buffers are kept.
_KEPT = 16

#: Makes the loss to go backward from, of the outputs of a chunk and the chunk's number.
ChunkLoss = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """Which process holds which stage.

    Attributes:
        ranks: Processes of the pipeline.
        per_rank: Stages of each.
        is_v: Rank ``r`` holds ``r`` and ``last - r``; else ``r, r + ranks, ...``.
    """

    ranks: int
    per_rank: int
    is_v: bool = False

    @property
    def num_stages(self) -> int:
        """Stages in all."""
        return self.ranks * self.per_rank

    def stages_of(self, rank: int) -> list[int]:
        """The stages of a process, in their order."""
        if self.is_v:
            return [rank, self.num_stages - 1 - rank]
        return list(range(rank, self.num_stages, self.ranks))

    def rank_of(self, stage: int) -> int:
        """The process that holds a stage."""
        return next(rank for rank in range(self.ranks) if stage in self.stages_of(rank))


class PipelineRunner:
    """The stages of this process among those of a pipeline. Every method is collective over the group.

    Args:
        stages: The stages that this process holds.
        plans: All stages.
        layout: Who holds which.
        group: The processes of the pipeline.
        device: Of this process.
        choice: The schedule.
        num_chunks: Parts of a batch.
    """

    def __init__(
        self,
        stages: Sequence[StageModule],
        plans: Sequence[StagePlan],
        layout: Layout,
        group: dist.ProcessGroup,
        device: torch.device,
        choice: ScheduleChoice,
        num_chunks: int,
    ):
        self.stages, self.plans, self.layout = list(stages), list(plans), layout
        self.group, self.device = group, device
        self.num_chunks = num_chunks
        self._choice = choice
        self._schedules: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._loss: ChunkLoss | None = None
        self._rank = dist.get_rank(group)

    @property
    def is_last(self) -> bool:
        """Whether this process holds the last stage, and so the logits."""
        return self._rank == self.last_rank

    @property
    def last_rank(self) -> int:
        """The process that holds the last stage, by its number in the group."""
        return self.layout.rank_of(self.layout.num_stages - 1)

    def train(self, inputs: Mapping[str, Any], loss: ChunkLoss) -> None:
        """Forward and backward of a batch; gradients are added to those that are there.

        Args:
            inputs: Arguments of the model's forward, the same on every process of the group.
            loss: Called for each chunk where the last stage is.
        """
        chunks = Chunks.of(inputs, self.num_chunks)
        schedule = self._schedule(chunks)
        self._loss = loss
        try:
            schedule.step(target=torch.arange(self.num_chunks), return_outputs=False, **chunks.inputs)
        finally:
            self._loss = None

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """Logits of a batch where the last stage is, None elsewhere. Works with the stages of every schedule."""
        chunks = Chunks.of(inputs, self.num_chunks)
        results: list[torch.Tensor] = []
        sent: list[tuple[torch.Tensor, Any]] = []  # the tensors live until they are gone
        for chunk in range(self.num_chunks):
            hidden: torch.Tensor | None = None
            for stage in self.stages:
                given = self._received(stage.plan, hidden, chunks)
                hidden = stage(*given, **chunks.part(chunk))
                following = stage.plan.index + 1
                if following == self.layout.num_stages:
                    results.append(hidden[: chunks.real_rows(chunk)])
                elif (peer := self.layout.rank_of(following)) != self._rank:
                    hidden = hidden.contiguous()
                    sent.append((hidden, dist.isend(hidden, group=self.group, group_dst=peer)))
        for _, work in sent:
            work.wait()
        return torch.cat(results) if results else None

    def _received(self, plan: StagePlan, before: torch.Tensor | None, chunks: Chunks) -> list[torch.Tensor]:
        """What the stage before gave: nothing, the tensor of this process, or that of another one."""
        if plan.entry is None:
            return []
        peer = self.layout.rank_of(plan.index - 1)
        if peer == self._rank:
            assert before is not None, "stages of a process run in their order"
            return [before]
        shape = plan.entry.shape
        buffer = torch.empty(shape.of(chunks.rows, chunks.length), dtype=shape.dtype, device=self.device)
        dist.recv(buffer, group=self.group, group_src=peer)
        return [buffer]

    def _schedule(self, chunks: Chunks) -> Any:
        """The schedule for batches of this shape; buffers belong to it."""
        key = (chunks.rows, chunks.length)
        if key not in self._schedules:
            while len(self._schedules) >= _KEPT:
                self._schedules.popitem(last=False)
            stages = [self._pipeline_stage(stage, chunks) for stage in self.stages]
            try:
                self._schedules[key] = self._choice.make(
                    stages if self._choice.is_multistage else stages[0], self.num_chunks, loss_fn=self._chunk_loss, scale_grads=False
                )
            except ValueError as error:
                raise ConfigError(f"the pipeline schedule does not fit: {error}") from error
        self._schedules.move_to_end(key)
        return self._schedules[key]

    def _pipeline_stage(self, stage: StageModule, chunks: Chunks) -> PipelineStage:
        """With the shapes of what passes, so that PyTorch need not run the model to find them."""

        def example(shape: Any) -> torch.Tensor:
            return torch.empty(shape.of(chunks.rows, chunks.length), dtype=shape.dtype, device="meta", requires_grad=True)

        plan = stage.plan
        entry = () if plan.entry is None else (example(plan.entry.shape),)
        # What the last stage gives is sent to nobody, and its shape is not looked at.
        leave = (torch.empty(0, device="meta") if plan.exit is None else example(plan.exit.shape),)
        return PipelineStage(stage, plan.index, self.layout.num_stages, self.device, input_args=entry, output_args=leave, group=self.group)

    def _chunk_loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert self._loss is not None, "only called within train"
        return self._loss(output, int(target))
