"""Parameters that stages of several processes use, as tied embeddings are: their gradients are sums over all of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ironloom.parallel.norms import local
from ironloom.parallel.pipeline.runner import Layout
from ironloom.parallel.pipeline.stage import StagePlan

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def holders(plans: Sequence[StagePlan], layout: Layout) -> dict[str, tuple[int, ...]]:
    """The processes of a pipeline that hold each parameter, in their order."""
    found: dict[str, set[int]] = {}
    for plan in plans:
        for name in plan.parameters:
            found.setdefault(name, set()).add(layout.rank_of(plan.index))
    return {name: tuple(sorted(ranks)) for name, ranks in found.items()}


@dataclass(frozen=True)
class SharedParameters:
    """What this process shares with others of its pipeline.

    Attributes:
        groups: Parameters in the order of the model, and the group of those that hold them.
        not_counted: Names that another process counts in norms.
    """

    groups: list[tuple[ProcessGroup, list[nn.Parameter]]]
    not_counted: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, held: dict[str, tuple[int, ...]], rank: int, pipelines: Sequence[Sequence[int]]) -> SharedParameters:
        """Make the groups; every process of the run calls this.

        Args:
            model: With this process's parameters.
            held: Who holds what.
            rank: This process in its pipeline.
            pipelines: The global ranks of all pipelines; the caller's is the one that it is in.
        """
        import torch.distributed as dist

        here = dist.get_rank()
        parameters = dict(model.named_parameters())
        groups = []
        for ranks in sorted({ranks for ranks in held.values() if len(ranks) > 1}):
            for pipeline in pipelines:
                group = dist.new_group([pipeline[index] for index in ranks])
                if here in pipeline and rank in ranks:
                    groups.append((group, [parameters[name] for name, holding in held.items() if holding == ranks]))
        return cls(groups, frozenset(name for name, ranks in held.items() if rank in ranks[1:]))

    def sum_gradients(self, device: torch.device) -> None:
        """Make the gradients those of the whole model, alike on all processes that hold a parameter."""
        from ironloom.parallel.gradients import sum_gradients

        for group, parameters in self.groups:
            trained = [parameter for parameter in parameters if parameter.requires_grad]
            # The shards that two stages have of one parameter are the same piece of it.
            parts = [_part(parameter) for parameter in trained]
            sum_gradients(parts, group, [], device)
            for parameter, part in zip(trained, parts, strict=True):
                if parameter.grad is None and part.grad is not None:
                    parameter.grad = torch.zeros_like(parameter)
                    local(parameter.grad).copy_(part.grad)


def _part(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter itself, or this process's part of a sharded one with its part of the gradient."""
    if local(parameter) is parameter:
        return parameter
    part = nn.Parameter(local(parameter).detach())
    part.grad = None if parameter.grad is None else local(parameter.grad)
    return part
