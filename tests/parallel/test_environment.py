"""A process finds its place, and several meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from ironloom.errors import ConfigError
from ironloom.parallel import DistributedEnvironment, main_process_first
from ironloom.parallel.environment import first_host, launched
from spawned import run

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "123"}
SRUN = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


def test_one_process_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    environment = DistributedEnvironment()
    environment.start()
    with environment.main_process_first():
        pass
    assert (environment.rank, environment.world_size, environment.is_main_process) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    assert dict(os.environ) == before


def test_torchrun_and_slurm_say_the_same() -> None:
    one, other = launched(TORCHRUN), launched({**SRUN, "SLURM_STEP_NODELIST": "node[07-08]"})
    assert (one.rank, one.local_rank, one.world_size, one.local_world_size) == (3, 1, 4, 2)
    assert (other.rank, other.local_rank, other.world_size, other.local_world_size) == (3, 1, 4, 2)
    assert (one.master_addr, one.master_port, other.master_addr) == ("host", 123, "node07")


def test_a_batch_script_is_one_process() -> None:
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}).world_size == 1


@pytest.mark.parametrize(("nodes", "first"), [("a1", "a1"), ("a[01-04,9],b", "a01"), ("gpu-3,gpu-4", "gpu-3"), ("n[2,5]", "n2")])
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "one"}, {"WORLD_SIZE": None}])
def test_an_environment_that_is_not_whole_is_refused(wrong: dict[str, Any]) -> None:
    variables = {name: value for name, value in {**TORCHRUN, **wrong}.items() if value is not None}
    with pytest.raises(ConfigError, match="torchrun"):
        launched(variables)


def test_processes_meet_and_part(tmp_path: Path) -> None:
    def meet() -> Any:
        before = dict(os.environ)
        environment = DistributedEnvironment(use_cpu=True)
        environment.start()
        environment.start()
        number = torch.tensor([environment.rank + 1])
        torch.distributed.all_reduce(number)
        environment.close()
        return int(number), torch.distributed.is_initialized(), dict(os.environ) == before

    assert run(meet, 2) == [(3, False, True)] * 2


def test_the_first_process_goes_first(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def fill() -> bool:
        with main_process_first():
            found = cache.exists()
            cache.write_text("filled")
        return found

    assert run(fill, 3) == [False, True, True]


def test_a_failed_process_shows_its_trace_and_nobody_is_left() -> None:
    def fail() -> None:
        environment = DistributedEnvironment(use_cpu=True)
        environment.start()
        if environment.rank == 1:
            raise ValueError("the cause")
        torch.distributed.barrier()

    with pytest.raises(AssertionError, match="the cause") as failed:
        run(fail, 2, timeout=20)
    assert "rank 0" in str(failed.value)


def test_a_stuck_process_is_killed_in_time() -> None:
    def hang() -> None:
        if os.environ["RANK"] == "0":
            import time

            time.sleep(100)

    with pytest.raises(AssertionError, match="rank 0 is not done; it is at"):
        run(hang, 2, timeout=2)


@pytest.mark.slow
def test_torchrun_starts_a_training(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from tiny import tiny_lm, tiny_trainer\n"
        "trainer = tiny_trainer(Path(sys.argv[1]), tiny_lm(), use_cpu=True)\n"
        "trainer.train()\n"
        "trainer.save_model()\n"
        "print('rank', os.environ['RANK'], 'loss', trainer.state.log_history[-2]['loss'])\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = sorted(line.split(" loss ") for line in done.stdout.splitlines() if line.startswith("rank"))
    assert [rank for rank, _ in said] == ["rank 0", "rank 1"]
    assert said[0][1] == said[1][1]
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_one_process_does_not_import_what_several_need() -> None:
    heavy = ["torch._dynamo", "sympy", "torch.distributed.tensor", "torch.distributed.fsdp"]
    code = f"import sys, ironloom.trainer, ironloom.parallel; print([name for name in sys.modules if name in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
