"""Gradients that are summed while others are still computed are the bits of those that are summed afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ironloom.parallel.gradients import GradientSums, sum_gradients
from parallel.summing import ALL, CPU, gathered, loss_of, make, together
from spawned import run


class Case:
    """Steps of several processes. Two parameters make a bucket: the last two are the first."""

    def __init__(self, *steps: Any, **options: Any):
        self.steps, self.options = steps, options


def batches(rank: int, step: Any) -> list[Sequence[int] | None]:
    """The micro-batches of a process: which parameters each uses, in order; None: it has nothing of that batch."""
    return step(rank) if callable(step) else [step]


CASES = {
    "all of them": Case(ALL, ALL, ALL),
    "several micro-batches": Case(*[lambda rank: [ALL, ALL[rank:], ALL[:-1]]] * 3),
    "another order in one process": Case(*[lambda rank: [ALL if rank else ALL[::-1]]] * 3),
    "unused in one process": Case(*[lambda rank: [(0, 1, 3, 5) if rank else ALL]] * 3),
    "each unused in some process": Case(*[lambda rank: [[index for index in ALL if index % 2 != rank]]] * 3),
    "unused everywhere": Case(*[(0, 2, 3, 4)] * 3),
    "used now and then": Case(ALL, (0, 1, 2, 3), (0, 1, 2, 3), lambda rank: [(0, 1, 2, 3, 4) if rank else (0, 1, 2, 3)], (5,), (5,), ALL),
    "nothing of the last batch": Case(*[lambda rank: [ALL, ALL if rank else None]] * 3),
    "nothing of any batch": Case(*[lambda rank: [None] if rank else [ALL]] * 3),
    "nobody has a gradient": Case(ALL, (), (), ALL, ALL),
    "tied": Case(*[(0, 1, 5, 2, 3, 4, 0, 5)] * 3),
    "frozen": Case(*[ALL] * 4, frozen={1: (0, 1, 2), 5: (2, 3)}),
    "summed in half precision": Case(ALL, ALL, ALL, dtype=torch.bfloat16),
    "types mixed": Case(ALL, ALL, ALL, types={2: torch.bfloat16, 3: torch.float64}),
    "a gradient that grows after its turn": Case(ALL, ALL, ALL, ALL, late=True),
    "another parameter in between": Case(ALL, ALL, ALL, ALL, short=(1,)),
}
#: Sums that are begun within the backward passes of the last micro-batches, by step, for each process.
BEGUN = {
    "all of them": lambda rank: [0, 3, 3],
    "several micro-batches": lambda rank: [0, 0, 0],
    "another order in one process": lambda rank: [0, 3, 3],
    "unused in one process": lambda rank: [0, 0, 0] if rank else [0, 3, 3],
    "unused everywhere": lambda rank: [0, 2, 2],
    "used now and then": lambda rank: [0, 0, 2, 2, 0, 1, 1],
    "nothing of the last batch": lambda rank: [0, 3, 3] if rank else [0, 0, 0],
    "tied": lambda rank: [0, 3, 3],
    "frozen": lambda rank: [0, 3, 3, 2],
    "a gradient that grows after its turn": lambda rank: [0, 3, 0, 0],
    "another parameter in between": lambda rank: [0, 0, 0, 3],
}


def compare(case: Case) -> list[int]:
    """Take the steps twice, with and without sums that begin early; how many did, by step."""
    types, dtype = case.options.get("types", {}), case.options.get("dtype")
    with together() as (rank, counter):
        one, other, sums = make(types), make(types), GradientSums(dist.new_group(), CPU, dtype)
        group, begun = dist.new_group(), []
        for number, step in enumerate(case.steps):
            short = number in case.options.get("short", ())
            some, others = (one[:-1], other[:-1]) if short else (one, other)
            for index in ALL:
                freed = number not in case.options.get("frozen", {}).get(index, ())
                for parameters in (one, other):
                    parameters[index].requires_grad_(freed)
            parts = batches(rank, step)
            for place, used in enumerate(parts):
                is_last, seed = place == len(parts) - 1, 100 * number + 10 * place + rank
                with sums.armed(some) if is_last else contextlib.nullcontext():
                    before = counter.count
                    for _ in range(2 if case.options.get("late") and rank == 0 else 1):
                        for parameters in (one, other):
                            loss = loss_of(parameters, used or (), seed)
                            if loss.requires_grad:
                                loss.backward()
                    if is_last:
                        begun.append(counter.count - before)
            truth = gathered(others)
            numbers = sums.finish(some, [rank + 0.5, 2.0]), sum_gradients(others, group, [rank + 0.5, 2.0], CPU, dtype)
            assert numbers[0] == numbers[1] == [sum(range(dist.get_world_size())) + dist.get_world_size() / 2, 2 * dist.get_world_size()]
            for mine, plain, wanted in zip(some, others, truth, strict=True):
                assert (mine.grad is None) == (plain.grad is None) == (wanted is None)
                assert not mine._post_accumulate_grad_hooks
                if mine.grad is not None:
                    assert torch.equal(mine.grad, plain.grad)
                    exact = dtype is None and mine.dtype == torch.float32
                    assert torch.allclose(mine.grad.double(), wanted, rtol=1e-5 if exact else 0.05, atol=1e-5 if exact else 0.05)
            for parameter in (*one, *other):
                if parameter.grad is not None:
                    parameter.data -= 0.1 * parameter.grad
                    parameter.grad = None
        return begun


def everything() -> dict[str, list[int]]:
    return {name: compare(case) for name, case in CASES.items()}


@pytest.mark.parametrize("nproc", [2, 3])
def test_sums_that_begin_early_are_the_same_bits(nproc: int) -> None:
    for rank, begun in enumerate(run(everything, nproc)):
        assert begun.keys() == CASES.keys()
        for name, expected in BEGUN.items():
            assert begun[name] == expected(rank), (name, rank)
