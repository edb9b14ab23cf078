"""Messages of the package come to the terminal from every command that works long, each once, and those of other libraries once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURATION = """\
model: {d_model: 8, d_ffn: 8, num_layers: 1, num_attention_heads: 1, head_dim: 8, max_seq_len: 8,
  tokenizer_type: byte, vocab_name_or_path: null}
data: {train_datasets: [a.txt], splits: [1.0, 0.0, 0.0]}
operation: {train_steps: 1}
trainer: {model_path: out, micro_batch_size: 1, num_workers: 0}
"""
#: A preparation that takes long, a message of the package and one of a library that shows its own, below the command line.
MAIN = """\
import logging, sys
import ironloom.data.preparation.build as build
from ironloom.cli import main
sys.modules["gigatoken"] = None
build._LONG = -1.0
other = logging.getLogger("other")
other.addHandler(logging.StreamHandler())
real = build._write
def write(*args):
    other.warning("a message of another library")
    real(*args)
build._write = write
main()
"""


def errors_of(folder: Path, command: str, level: str) -> str:
    """What a command says beside its result."""
    (folder / "run.yaml").write_text(f"{CONFIGURATION}utils: {{log_level: {level}}}\n")
    (folder / "a.txt").write_text("some text for training\n" * 20)
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *command.split(), "run.yaml"],
        cwd=folder,
        env=os.environ | {"IRONLOOM_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("command", ["data prepare", "data inspect", "train"])
def test_every_message_is_shown_once(tmp_path: Path, command: str) -> None:
    said = errors_of(tmp_path, command, "INFO")
    for message in ("a message of another library", "the package gigatoken tokenizes many times as fast"):
        assert said.count(message) == 1, said


def test_the_level_is_that_of_the_configuration(tmp_path: Path) -> None:
    said = errors_of(tmp_path, "data prepare", "WARNING")
    assert "a message of another library" in said
    assert "gigatoken" not in said
