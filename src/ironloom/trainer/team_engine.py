"""What the engines of several processes have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ironloom.errors import DataError
from ironloom.objectives import Objective
from ironloom.objectives.weighted import plain
from ironloom.parallel.norms import local, scale, total_norm
from ironloom.parallel.team import Team
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.engine import Batch, NativeEngine


class TeamEngine(NativeEngine):
    """Engine of one process of a team: its samples are a part of all, and None stands for a batch that it has nothing of.

    Args:
        model: Whole, or spread over the processes.
        objective: Loss as sum and weight.
        args: Precision, compilation, kernels.
        team: The processes.
    """

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, team: Team):
        super().__init__(model, objective, args, team.device)
        self.team = team
        self._pattern: Batch | None = None

    def weight(self, batches: Sequence[Batch | None]) -> float:
        """Targets of the micro-batches of all processes."""
        weight = super().weight([batch for batch in batches if batch is not None])
        total, targets, meets = self.team.sum([weight, self.num_targets, self.meets_documents])
        self.meets_documents, self.num_targets = meets > 0, int(targets)
        return plain(total)

    def is_finite(self) -> bool:
        """Whether every weight in every process is a finite number."""
        mine = all(bool(torch.isfinite(local(parameter)).all()) for parameter in self._parameters)
        return not self.team.any([not mine])[0]

    def _seen(self) -> Batch:
        """A batch that this process had before, in the place of one that it has nothing of.

        Raises:
            DataError: If it never had one.
        """
        if self._pattern is None:
            raise DataError(
                f"the data has fewer samples than the {self.team.place.data_size} processes that share them: use fewer processes"
            )
        return self._pattern

    def _part(self, batch: Batch | None, divisor: float, key: int, is_last: bool) -> float:
        return 0.0 if batch is None else self._micro_batch(batch, divisor, key)


class SpreadEngine(TeamEngine):
    """Engine of a model whose weights may be in parts, and whose gradients are sums that this package makes."""

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, team: Team):
        super().__init__(model, objective, args, team)
        place = team.place
        # Those whose losses and gradients are parts of a sum: they have other samples, or other pieces of the same.
        self._group = place.group("dp_replicate", "dp_shard", "cp")
        self._number = place.data_rank * place.degrees.cp + place.cp_rank

    def _norm(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """L2 norm of all tensors together, wherever their parts are."""
        return total_norm(tensors)

    def _scale(self, parameters: Sequence[torch.Tensor], max_norm: float, norm: torch.Tensor) -> None:
        scale([parameter.grad for parameter in parameters if parameter.grad is not None], max_norm, norm.item())
