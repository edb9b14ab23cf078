"""The shipped configurations train with Accelerate however their processes are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import accelerating  # imports, before the processes are forked, what each of them needs
from ironloom import config
from library.conftest import SMALL
from spawned import run
from tiny import losses

EXAMPLE = Path(__file__).parents[2] / "examples/trainers/distributed"
BATCHES = ("trainer_args.per_device_train_batch_size", "trainer_args.per_device_eval_batch_size")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make a run small, with text of its own."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    nouns, verbs = ("house", "tree", "road"), ("see", "take", "leave")
    file.write_text("\n".join(f"{verb} the {noun} {number}" for number in range(60) for verb in verbs for noun in nouns))
    kept = [word for word in SMALL if not word.startswith(BATCHES)]
    return [*kept, f"data.train_datasets=[{file}]", "trainer_args.max_steps=12", "trainer_args.logging_steps=1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(Path(words[-3].partition("[")[2]).parent / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def trained(name: str, words: list[str], size: int) -> Any:
    """Losses and the trainer's class name, of this process's part."""
    graph = config.load(EXAMPLE / "templates/configs" / name, [*words, *(f"{batch}={4 // size}" for batch in BATCHES)])
    assert config.check(graph) == []
    trainer = config.build(graph)
    trainer.train()
    return losses(trainer.state.log_history), type(trainer).__name__


@pytest.mark.parametrize("name", ["accelerate.yaml", "checkpointing.yaml"])
def test_the_example_trains_the_same_in_two_processes(name: str, words: list[str], folder: Path) -> None:
    assert accelerating
    alone, kind = trained(name, [*words, "trainer_args.output_dir=one"], 1)
    assert kind == "AccelTrainer" and len(alone) == 12 and alone[-1][1] < alone[0][1]
    for found, _ in run(lambda: trained(name, [*words, "trainer_args.output_dir=two"], 2), 2):
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in alone], rel=1e-5)


MODULE = ["-m", "ironloom", "train"]
WAYS = {
    "ironloom": [sys.executable, *MODULE],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *MODULE],
    "accelerate launch": [
        *[
            sys.executable,
            "-m",
            "accelerate.commands.accelerate_cli",
            "launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
        ],
        *["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", *MODULE],
    ],
}


def metrics(output: Path) -> list[float]:
    lines = (json.loads(line) for line in (output / "logs/metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in lines if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_launcher_starts_the_same_run(way: str, words: list[str], folder: Path) -> None:
    configuration = str(EXAMPLE / "templates/configs/accelerate.yaml")
    last = ["--nproc", "2"] if way == "ironloom" else []
    for output, command, size in (("one", WAYS["ironloom"], 1), ("two", WAYS[way], 2)):
        batches = [f"{batch}={4 // size}" for batch in BATCHES]
        line = [*command, configuration, *words, *batches, f"trainer_args.output_dir={output}", *(last if size == 2 else [])]
        done = subprocess.run(line, capture_output=True, text=True, timeout=200, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
    assert metrics(folder / "two") == pytest.approx(metrics(folder / "one"), rel=1e-5)
