"""``ironloom train --nproc 2`` with a real trainer: a killed rank, a new start, fewer processes; the same losses as undisturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = """\
data: {train_datasets: [python-docs], vocab_size: 300}
model:
  {tokenizer_type: bbpe, vocab_name_or_path: null, num_layers: 1, d_model: 32, d_ffn: 64, head_dim: 16, num_attention_heads: 2,
   max_seq_len: 16, precision: float32, dropout_attn: 0, dropout_embd: 0, dropout_mlp: 0}
operation: {train_steps: 30, eval_interval: 1000, eval_samples: 4, test_samples: 4}
optim: {warmup_steps: 2}
trainer: {micro_batch_size: 2, train_batch_size: 8, log_interval: 1, save_checkpoint_steps: 5}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "small.yaml").write_text(SMALL)
    return folder


def begin(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    variables |= {"IRONLOOM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-m", "ironloom", "train", *words]
    return subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def losses(output: Path) -> dict[int, float]:
    """The loss of every step, as last logged."""
    found = {}
    for line in (output / "logs/metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "loss" in record:
            found[record["step"]] = record["loss"]
    return found


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children if "run.yaml" in Path(f"/proc/{child}/cmdline").read_text()]


def wait_for_checkpoint(launcher: subprocess.Popen[str], output: Path) -> None:
    end = time.monotonic() + 150
    while not (output / "checkpoints").exists() or not any((output / "checkpoints").glob("checkpoint-*/manifest.json")):
        assert launcher.poll() is None and time.monotonic() < end, launcher.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_rank_is_named_and_the_run_goes_on_also_with_one_process(folder: Path) -> None:
    undisturbed = begin(folder, "small.yaml", "trainer.model_path=whole", "--nproc", "2")
    out, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, out
    expected = losses(folder / "whole")
    assert len(expected) == 30

    restarted = begin(folder, "small.yaml", "trainer.model_path=again", "operation.train_steps=30", "--nproc", "2", "--max-restarts", "1")
    wait_for_checkpoint(restarted, folder / "again")
    os.kill(ranks_of(restarted)[1], signal.SIGKILL)
    out, _ = restarted.communicate(timeout=300)
    assert restarted.returncode == 0, out
    assert re.search(r"^error: rank 1 \(.*\) was killed by SIGKILL in step \d+, phase", out, re.MULTILINE)
    assert losses(folder / "again") == expected

    failed = begin(folder, "small.yaml", "trainer.model_path=less", "--nproc", "2")
    wait_for_checkpoint(failed, folder / "less")
    os.kill(ranks_of(failed)[0], signal.SIGKILL)
    out, _ = failed.communicate(timeout=100)
    assert failed.returncode == 5, out
    assert "error: rank 0 (" in out and "was killed by SIGKILL" in out
    alone = begin(folder, "less/run.yaml")
    out, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, out
    found = losses(folder / "less")
    assert found.keys() == expected.keys()
    assert all(abs(found[step] - loss) <= 1e-5 * loss for step, loss in expected.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_run_goes_on_with_the_machines_that_are_left(folder: Path) -> None:
    """Two launchers play two machines, one of which is lost with its process; the other one takes as many samples per step, alone."""
    options = ("--nproc", "1", "--nnodes", "1:2", "--rdzv", f"127.0.0.1:{free_port()}", "--max-restarts", "2")
    first = begin(folder, "small.yaml", "trainer.model_path=left", "operation.train_steps=60", *options)
    time.sleep(5)  # it holds the list of machines, and waits for others
    second = begin(folder, "small.yaml", "trainer.model_path=left", "operation.train_steps=60", *options)
    wait_for_checkpoint(first, folder / "left")
    (lost,) = ranks_of(second)
    second.kill()
    os.kill(lost, signal.SIGKILL)
    second.communicate()
    out, _ = first.communicate(timeout=400)
    assert first.returncode == 0, out
    assert "starting the ranks anew, attempt 2" in out
    found = losses(folder / "left")

    alone = begin(folder, "small.yaml", "trainer.model_path=one", "operation.train_steps=60")
    out, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, out
    expected = losses(folder / "one")
    assert found.keys() == expected.keys() == set(range(1, 61))
    assert all(abs(found[step] - loss) <= 1e-5 * loss for step, loss in expected.items())


# Imported by every process of Python before anything else: rank 1 is on another machine.
OTHER = """\
import os, platform, shutil, socket, time, types
if os.environ.get("RANK") == "1":
    socket.gethostname = lambda: "node1"
    if os.environ["OTHER"] == "disk":
        shutil.disk_usage = lambda path: types.SimpleNamespace(free=10)
    if os.environ["OTHER"] == "version":
        platform.python_version = lambda: "3.0.0"
    if os.environ["OTHER"] == "absent":
        time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "code", "says"),
    [
        ("disk", 4, r"rank 1 \(node1, .*: node1: .* has 0\.0 GiB left, a checkpoint takes about"),
        ("version", 2, r"node1 \(rank 1\): python is 3\.0\.0, but .* on .* \(rank 0\).*install the same python"),
        ("absent", 5, r"rank 1 of 2 did not start; look at the output of its machine"),
    ],
)
def test_the_machine_that_differs_is_named(other: str, code: int, says: str, folder: Path) -> None:
    (folder / "other").mkdir(exist_ok=True)
    (folder / "other/sitecustomize.py").write_text(OTHER)
    path = os.pathsep.join([str(folder / "other"), *filter(None, [os.environ.get("PYTHONPATH")])])
    launcher = begin(folder, "small.yaml", f"trainer.model_path=other run/{other}", "--nproc", "2", PYTHONPATH=path, OTHER=other)
    out, _ = launcher.communicate(timeout=200)
    errors = out[out.index("error: ") :]
    assert launcher.returncode == code, out
    assert re.match(f"error: {says}", errors), out
    assert len(errors.splitlines()) <= 25
