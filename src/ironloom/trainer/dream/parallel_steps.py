"""The engine of training steps that are the user's own, in one process of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.objectives.weighted import plain
from ironloom.trainer.dream.steps import StepEngine
from ironloom.trainer.dream.window import StepWeight, Window
from ironloom.trainer.engine import Batch, EvalStep
from ironloom.trainer.parallel_engine import ParallelEngine

if TYPE_CHECKING:
    from ironloom.trainer.dream.trainer import DreamTrainer


class ParallelStepEngine(StepEngine, ParallelEngine):
    """A :class:`StepEngine` whose samples, losses and gradients are a part of all.

    Args:
        trainer: Owner of the steps.
        model: What is trained, spread over the processes.
    """

    def __init__(self, trainer: DreamTrainer, model: nn.Module, *rest: Any):
        ParallelEngine.__init__(self, model, StepWeight(trainer), *rest)
        self._set_up(trainer)

    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """As in :class:`StepEngine`; a process without samples takes part where weights are gathered."""
        if batch is None and not self.is_sharded:
            return EvalStep(0.0, 0, None)
        return StepEngine.evaluate(self, batch, keep_logits)

    def end_validation(self) -> None:
        """As in :class:`StepEngine`; weights that were gathered for it are parts again."""
        super().end_validation()
        if self.is_sharded:
            from ironloom.parallel.shard import reshard

            reshard(self.model)

    def _pattern_batch(self) -> Batch:
        self._pattern = self.seen_batch
        return self._seen()

    def _united(self, window: Window) -> tuple[float, float]:
        numbers = [window.loss, float(window.weight)]
        loss_sum, weight = self.united_gradients([] if window.stepped else self._parameters, numbers)
        self._agree_on_statistics()
        return loss_sum, plain(weight)

    def united_gradients(self, parameters: list[Any], numbers: list[float]) -> list[float]:
        """As in :class:`StepEngine`; sharded gradients were summed in the backward pass."""
        from ironloom.parallel.gradients import sum_gradients

        return sum_gradients([] if self.is_sharded else parameters, self._group, numbers, self.device)

    @torch.no_grad()
    def _agree_on_statistics(self) -> None:
        """Give all processes the running statistics of the first: what is saved is what each of them goes on with."""
        import torch.distributed as dist

        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
                for buffer in module.buffers(recurse=False):
                    dist.broadcast(buffer, src=0)
