"""A tiny configuration to inspect, and the files it reads."""

from __future__ import annotations

import json
from pathlib import Path

MODEL = (
    "model: {d_model: 8, d_ffn: 8, num_layers: 1, num_attention_heads: 1, head_dim: 8, max_seq_len: LENGTH, "
    "tokenizer_type: byte, vocab_name_or_path: null}\n"
)
WORDS = ["one two three", "four five six", "seven eight nine", "ten eleven twelve", "thirteen fourteen fifteen"]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def chats(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": question, "completion": reply}) + "\n" for question, reply in pairs))
    return path
