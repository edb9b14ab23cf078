"""Ironloom beside its peers: the same training in turn, several rounds, one table of medians and ratios.

    python benchmarks/training.py [--rounds 5] [--only small,large,start]

Rates are compared within a round (the contestants of a round run one after the other), because a
machine's speed drifts; the table shows the median over rounds of each rate and of each ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from contestants import CONTESTANTS, Setting, ironloom_train, silenced

SMALL = Setting("2 layers, 64 wide, float32", layers=2, width=64, heads=4, sequence=32, batch=8, vocabulary=256, steps=300, warm_up=20)
LARGE = Setting("4 layers, 256 wide, float32", layers=4, width=256, heads=4, sequence=256, batch=8, vocabulary=4096, steps=12, warm_up=3)
BARE = "bare PyTorch loop"


def timed(name: str, setting: Setting) -> float:
    """Seconds per step of one contestant, without its output."""
    warnings.simplefilter("ignore")
    function = ironloom_train if name.startswith("ironloom train") else CONTESTANTS[name.split(",")[0]]
    with silenced():
        return function(setting)


def compare(title: str, entries: list[tuple[str, Setting]], rounds: int, reference: str) -> None:
    """Run every entry once in each round, each in a process of its own, and print the table."""
    found: dict[str, list[float]] = {name: [] for name, _ in entries}
    for number in range(rounds):
        for name, setting in entries:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                seconds = alone.submit(timed, name, setting).result()
            found[name].append(seconds)
            print(f"  round {number + 1}: {name}: {seconds * 1e3:.2f} ms a step", file=sys.stderr, flush=True)
    print(f"\n{title}")
    print(f"{'':32s} {'ms/step':>9s} {'steps/s':>9s} {'tokens/s':>10s} {'x ' + reference:>28s}")
    for name, setting in entries:
        step = statistics.median(found[name])
        ratios = [a / b for a, b in zip(found[reference], found[name], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"{name:32s} {step * 1e3:9.2f} {1 / step:9.1f} {setting.tokens / step:10,.0f} {spread:>28s}")


def start_up(rounds: int) -> None:
    """Whole processes: commands, imports, and the way to the first optimizer step of a tiny model."""
    print("\nstart-up, seconds (median)")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "tiny.yaml")
        config.write_text(
            "model: {d_model: 32, d_ffn: 64, num_layers: 1, num_attention_heads: 2, head_dim: 16, max_seq_len: 32,"
            " tokenizer_type: byte}\ndata: {train_datasets: [python-docs]}\n"
            f"trainer: {{model_path: {folder}/out, num_workers: 0}}\noperation: {{train_steps: 1, no_save: true}}\n"
        )
        ironloom = str(Path(sys.executable).with_name("ironloom"))
        first_step = [sys.executable, str(Path(__file__).with_name("first_step.py")), str(config)]
        commands = {
            "ironloom --help": [ironloom, "--help"],
            "import ironloom": [sys.executable, "-c", "import ironloom"],
            "import torch": [sys.executable, "-c", "import torch"],
            "ironloom check": [ironloom, "check", str(config)],
            "to the first optimizer step": first_step,
        }
        environment = {**os.environ, "IRONLOOM_CACHE": folder}
        subprocess.run(first_step, check=True, env=environment, capture_output=True)  # the data is prepared once
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command, check=True, env=environment, capture_output=True)
                times[name].append(time.perf_counter() - begin)
    for name, values in times.items():
        print(f"{name:32s} {statistics.median(values):9.2f}")
    over = [a - b for a, b in zip(times["to the first optimizer step"], times["import torch"], strict=True)]
    print(f"{'first step beyond import torch':32s} {statistics.median(over):9.2f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="small,large,start")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{machine}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    wanted = options.only.split(",")
    with contextlib.suppress(KeyboardInterrupt):
        if "small" in wanted:
            compare(SMALL.name, [(name, SMALL) for name in CONTESTANTS], options.rounds, BARE)
        if "large" in wanted:
            half = Setting(**{**vars(LARGE), "name": LARGE.name, "bf16": True})
            entries = [(name, LARGE) for name in CONTESTANTS]
            entries += [("bare PyTorch loop, bfloat16", half), ("Ironloom, bfloat16", half), ("ironloom train (defaults)", half)]
            compare("4 layers, 256 wide, sequence 256, batch 8", entries, options.rounds, "transformers.Trainer")
        if "start" in wanted:
            start_up(options.rounds)


if __name__ == "__main__":
    main()
