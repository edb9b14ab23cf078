"""Parameters whose gradients several processes sum, and what tells how they do it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ironloom.parallel import gradients
from ironloom.parallel.environment import DistributedEnvironment

SIZE = 300
COUNT = 6
CPU = torch.device("cpu")
ALL = tuple(range(COUNT))


class Counter:
    """Counts the collectives that are begun."""

    def __init__(self) -> None:
        self.whole, self.count = dist.all_reduce, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.whole(*args, **kwargs)


@contextlib.contextmanager
def together() -> Iterator[tuple[int, Counter]]:
    """Number of this process and a counter of collectives; buckets hold two parameters."""
    environment = DistributedEnvironment(use_cpu=True)
    environment.start()
    gradients.BUCKET_BYTES = 2 * SIZE * 4
    counter = dist.all_reduce = Counter()
    yield environment.rank, counter


def make(types: Mapping[int, torch.dtype]) -> list[nn.Parameter]:
    """Parameters, the same in every process."""
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(SIZE, generator=draw).to(types.get(index, torch.float32))) for index in range(COUNT)]


def loss_of(parameters: list[nn.Parameter], used: Sequence[int], seed: int) -> torch.Tensor:
    """A number whose gradients arrive from the parameter that is used last to the first."""
    draw, total = torch.Generator().manual_seed(seed), torch.zeros(SIZE)
    for index in used:
        total = torch.tanh(total + parameters[index] * torch.randn(SIZE, generator=draw))
    return total.sum()


def gathered(parameters: list[nn.Parameter]) -> list[torch.Tensor | None]:
    """The sums of gradients, by other means: all of them sent to all, and added in double precision."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, [None if one.grad is None else one.grad.double() for one in parameters])
    columns = [[grad for grad in column if grad is not None] for column in zip(*everyone, strict=True)]
    return [torch.stack(column).sum(0) if column else None for column in columns]
