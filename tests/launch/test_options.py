"""What options mean, and where no process is started because another launcher has done it."""

from __future__ import annotations

import pytest

from ironloom.errors import ConfigError
from ironloom.parallel.launch import is_placed, plan


def test_plans() -> None:
    assert plan(2).world == 2
    assert plan(8, "4", 1, "head:29500").world == 32
    elastic = plan(8, "2:4", None, "head", 3)
    assert (elastic.min_nodes, elastic.max_nodes, elastic.world, elastic.max_restarts) == (2, 4, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nnodes": "two"}, "--nnodes: expected a number"),
        ({"nnodes": "0"}, "--nnodes: expected a number"),
        ({"nnodes": "4:2"}, "--nnodes: expected a number"),
        ({"nnodes": "2"}, "need a place to meet; give --rdzv"),
        ({"rendezvous": "head:1"}, "no effect with one machine"),
        ({"nnodes": "2", "node_rank": 2, "rendezvous": "head:1"}, "--node-rank: expected a number from 0 to 1"),
        ({"nnodes": "1:2", "node_rank": 0, "rendezvous": "head:1"}, "leave it out"),
        ({"nnodes": "2", "rendezvous": "head:port"}, "--rdzv: expected HOST"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(2, **options)  # type: ignore[arg-type]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
TASK_PER_PROCESS = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
TASK_PER_MACHINE = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}


@pytest.mark.parametrize(
    ("variables", "nproc", "expected"),
    [
        ({}, None, False),
        ({}, 2, False),
        (TORCHRUN, None, True),
        (TORCHRUN, 4, True),
        (TASK_PER_PROCESS, None, True),
        (TASK_PER_PROCESS, 4, True),
        (TASK_PER_MACHINE, None, True),
        (TASK_PER_MACHINE, 8, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None, False),  # a batch script, before srun
    ],
)
def test_where_processes_are_there_already(variables: dict[str, str], nproc: int | None, expected: bool) -> None:
    assert is_placed(variables, nproc) is expected


@pytest.mark.parametrize("variables", [TORCHRUN, TASK_PER_PROCESS])
def test_another_number_of_processes_than_there_are(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="has started 4 processes on this machine; leave --nproc out"):
        is_placed(variables, 2)
