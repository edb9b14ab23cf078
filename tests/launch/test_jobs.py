"""Job files: they parse, their commands are those of a run, and run with stand-ins for a cluster's programs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ironloom.cli import main

GROUPS = """\
data: {train_datasets: [python-docs]}
model: {tokenizer_type: bbpe, vocab_name_or_path: null, d_model: 32, d_ffn: 64, head_dim: 16, num_attention_heads: 2}
operation: {train_steps: 5}
trainer: {micro_batch_size: 1, train_batch_size: 16, model_path: out}
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")  # the command sets it; this puts it back
    Path("my run.yaml").write_text(GROUPS)

    def launch(*words: str) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["launch", "my run.yaml", *words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=out, err=err)

    return launch


def stand_in(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def run(script: str, folder: Path, **variables: str) -> list[list[str]]:
    """Run a script with stand-ins; the words of every call of ironloom or torchrun."""
    programs = folder / "bin"
    programs.mkdir()
    stand_in(programs, "scontrol", 'printf "node7\\nnode8\\n"')
    stand_in(programs, "srun", 'shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done')
    for name in ("ironloom", "torchrun"):
        stand_in(
            programs,
            name,
            f'printf "%s\\0" {name} "$@" >> {shlex.quote(str(folder / "calls"))}; echo >> {shlex.quote(str(folder / "calls"))}',
        )
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **variables}
    subprocess.run(["bash"], input=script, text=True, check=True, cwd=folder, env=environment)
    return [line.rstrip("\0").split("\0") for line in (folder / "calls").read_text().splitlines()]


def test_slurm_starts_the_launcher_once_on_every_machine(launch: Any, tmp_path: Path) -> None:
    words = ["operation.train_steps=7", "--slurm", "--print", "--nproc", "4", "--nnodes", "2", "--gpus", "4", "--time", "10:00:00"]
    result = launch(*words, "--max-restarts", "3")
    assert (result.code, result.err) == (0, "")
    options = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in result.out.splitlines() if line.startswith("#SBATCH"))
    assert options == {
        "job-name": "out",
        "nodes": "2",
        "ntasks-per-node": "1",
        "gpus-per-node": "4",
        "time": "10:00:00",
        "signal": "TERM@120",
        "output": "out-%j.log",
    }
    calls = run(result.out, tmp_path, SLURM_JOB_NODELIST="node[7-8]", SLURM_JOB_ID="41000")
    command = ["ironloom", "train", "my run.yaml", "operation.train_steps=7", "--nproc", "4", "--max-restarts", "3", "--nnodes", "2"]
    assert calls == [[*command, "--node-rank", str(rank), "--rdzv", "node7:21000"] for rank in (0, 1)]


def test_torchrun(launch: Any, tmp_path: Path) -> None:
    result = launch("--torchrun", "--print", "--nproc", "2")
    assert run(result.out, tmp_path) == [
        ["torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "0", "-m", "ironloom", "train", "my run.yaml"]
    ]
    several = launch("--torchrun", "--print", "--nproc", "2", "--nnodes", "2", "--rdzv", "head:29500").out
    assert "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint head:29500 --rdzv-id out " in several
    subprocess.run(["bash", "-n"], input=several, text=True, check=True)


def test_torchrun_knows_the_options(launch: Any) -> None:
    from torch.distributed.run import get_args_parser

    line = launch("--torchrun", "--print", "--nproc", "2", "--nnodes", "2", "--rdzv", "head:29500").out.splitlines()[-1]
    found = get_args_parser().parse_args(shlex.split(line)[2:])
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint, found.module) == ("2", "2", "head:29500", True)
    assert [found.training_script, *found.training_script_args] == ["ironloom", "train", "my run.yaml"]


def test_kubernetes(launch: Any, tmp_path: Path) -> None:
    words = ["--kubernetes", "--print", "--nproc", "2", "--nnodes", "2", "--gpus", "2", "--image", "registry/ironloom:1"]
    result = launch(*words, "--max-restarts", "1")
    manifest = yaml.safe_load(result.out)
    assert (manifest["apiVersion"], manifest["kind"], manifest["metadata"]) == ("kubeflow.org/v1", "PyTorchJob", {"name": "out"})
    assert manifest["spec"]["nprocPerNode"] == "2"
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in replicas.items()} == {"Master": 1, "Worker": 1}
    assert replicas["Master"]["template"] == replicas["Worker"]["template"]
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    assert (container["name"], container["image"]) == ("pytorch", "registry/ironloom:1")
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    place = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "out-master-0", "PET_MASTER_PORT": "23456"}
    calls = run(shlex.join(container["command"]), tmp_path, **place)
    command = ["ironloom", "train", "my run.yaml", "--nproc", "2", "--max-restarts", "1", "--nnodes", "2"]
    assert calls == [[*command, "--node-rank", "1", "--rdzv", "out-master-0:23456"]]
    assert json.dumps(manifest).count("unset RANK WORLD_SIZE") == 2


def test_without_print_it_is_a_file_in_the_output_folder(launch: Any) -> None:
    result = launch("--slurm", "--nproc", "2")
    assert result.out == "sbatch out/job.slurm\n"
    subprocess.run(["bash", "-n", "out/job.slurm"], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "choose one of --slurm, --torchrun and --kubernetes"),
        (("--slurm", "--torchrun"), "choose one of"),
        (("--kubernetes",), "Give --image"),
        (("--slurm", "--image", "x"), "--image has no effect with --slurm"),
        (("--torchrun", "--nnodes", "2"), "give --rdzv HOST:PORT"),
        (("--torchrun", "--time", "1:00:00"), "--time has no effect with --torchrun"),
        (("--slurm", "--nproc", "3"), "trainer.train_batch_size: 16 is not a multiple of micro_batch_size 1 x data-parallel size 3"),
    ],
)
def test_mistakes_are_said_before_a_job_waits_in_a_queue(launch: Any, words: tuple[str, ...], message: str) -> None:
    result = launch(*words, "--print")
    assert result.code == 2
    assert message in result.err
    assert result.out == ""
