"""Commands as a user has them: real processes, a tiny model, a corpus in a file, no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

IRONLOOM = str(Path(sys.executable).with_name("ironloom"))
STEPS = 300
CONFIG = f"""\
model:
  {{d_model: 16, d_ffn: 32, num_layers: 1, num_attention_heads: 2, head_dim: 8, max_seq_len: 16,
   tokenizer_type: bbpe, vocab_name_or_path: null, precision: float32}}
data: {{train_datasets: [corpus.txt], splits: [0.8, 0.1, 0.1], vocab_size: 300}}
optim: {{max_lr: 1e-2}}
trainer:
  {{model_path: out, micro_batch_size: 2, gradient_accumulation_steps: 2, num_workers: 0, log_interval: 10,
   save_checkpoint_steps: 100, do_eval: true, vocab_padding_unit: 1}}
operation: {{train_steps: {STEPS}, eval_interval: 100, eval_samples: 4, test_samples: 4}}
"""
# Python imports a module of this name when it starts: whatever asks for the network fails and is noted.
NO_NETWORK = """\
import pathlib, socket

def refuse(*args, **kwargs):
    with open(pathlib.Path(__file__).with_name("attempts.txt"), "a") as file:
        file.write(f"{args}\\n")
    raise OSError("these tests have no network")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


@dataclass
class Place:
    """A folder with a configuration and a corpus, and the environment of the commands run there."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``ironloom`` to its end. It never shows a stack trace."""
        result = subprocess.run(
            [IRONLOOM, *words], cwd=self.folder, env=self.environment, input=stdin, capture_output=True, text=True, timeout=100
        )
        assert "Traceback" not in result.stderr + result.stdout, result.stderr
        return result

    def train(self, output: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Train into a folder; must succeed."""
        result = self.run("train", "tiny.yaml", f"trainer.model_path={output}", *words)
        assert result.returncode == 0, result.stderr
        return result

    def copy(self, output: str, name: str) -> Path:
        """A copy of an output folder under another name."""
        return shutil.copytree(self.folder / output, self.folder / name)

    def metrics(self, output: str) -> list[dict[str, Any]]:
        """What was recorded of a run, without what depends on the clock and the machine."""
        lines = (self.folder / output / "logs" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        measured = re.compile(r"_runtime$|_per_second$|^peak_memory")
        return [
            {key: value for key, value in record.items() if not measured.search(key)} for record in records if "train_runtime" not in record
        ]

    def weights(self, output: str) -> bytes:
        """The trained weights, bit for bit."""
        return (self.folder / output / "model.safetensors").read_bytes()

    def attempts(self) -> str:
        """What was asked of the network."""
        file = self.folder / "guard" / "attempts.txt"
        return file.read_text() if file.exists() else ""


def furnished(folder: Path) -> Place:
    """A folder with what a tiny run needs."""
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "corpus.txt").write_text("".join(text for _, text in sorted(topics.items()))[:60_000])
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "COLUMNS")}
    environment |= {
        "IRONLOOM_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder / "guard"),
    }
    return Place(folder, environment)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
