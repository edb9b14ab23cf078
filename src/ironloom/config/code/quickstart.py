"""What a run in code is where nothing is said: the model and the text of the quickstart."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "num_layers": 4,
    "d_model": 256,
    "d_ffn": 688,
    "num_attention_heads": 4,
    "head_dim": 64,
    "max_seq_len": 256,
    "positional_embedding": {"type": "rope"},
    "ln_type": "rmsnorm",
    "activation_type": "swiglu",
    "no_bias": True,
    "dropout_embd": 0.0,
    "dropout_attn": 0.0,
    "dropout_mlp": 0.0,
    "tokenizer_type": "bbpe",
    "vocab_name_or_path": None,
}
DATA: dict[str, Any] = {"train_datasets": ["python-docs"], "splits": [0.95, 0.05, 0.0], "vocab_size": 4096}
EVAL_STEPS = 100
SAVE_STEPS = 200
EVAL_SAMPLES = 32
WARMUP_STEPS = 50
