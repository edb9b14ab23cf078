"""Small models of ``transformers``, one of each family and variant, in folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ironloom.data.tokenizer import Tokenizer
from models.twins import randomize

VOCABULARY = 263  # of no tokenizer, so that it is seen which of the two numbers counts

LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"}

#: Type and values of a configuration by a name to show.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": None, "eos_token_id": 256},
    ),
    "llama": ("llama", LLAMA),
    "llama-linear": ("llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}),
    "llama3-tied": (
        "llama",
        LLAMA | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}, "tie_word_embeddings": True},
    ),
    "llama-biases": ("llama", LLAMA | {"attention_bias": True}),
    "mistral": ("mistral", LLAMA | {"sliding_window": 7}),
    "qwen2": ("qwen2", QWEN2 | {"tie_word_embeddings": True}),
    "qwen2-windows": ("qwen2", QWEN2 | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("qwen3", LLAMA),
    "gemma": ("gemma", LLAMA),
}


def make(variant: str, folder: Path, *, shard_size: str = "5GB", dtype: str = "float32", with_tokenizer: bool = True) -> Any:
    """A model with every weight drawn, saved as its library saves it."""
    kind, values = VARIANTS[variant]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values)).eval()
    randomize(model)
    model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard_size)
    if with_tokenizer:
        Tokenizer.bytes().save_pretrained(folder)
        (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, 10], "temperature": 0.7, "do_sample": True}))
    return model


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
