"""Fine-tuning on conversations of uneven length: several processes end where one does."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_templates import CHATML
from chats import answer, system, user
from ironloom.data import SFTData, collate_rows
from ironloom.models.build import build_decoder
from ironloom.settings.model import ModelConfig
from ironloom.trainer import AccelTrainer
from spawned import run
from spread import GLOBAL_BATCH, Result, spread_over
from tiny import tiny_trainer

LENGTH = 160
PLAIN = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0, "max_seq_len": LENGTH}
SIZES = {"d_model": 16, "num_layers": 2, "num_attention_heads": 4, "head_dim": 4, "d_ffn": 32}


@pytest.fixture
def data(tmp_path: Path) -> SFTData:
    """Rows of 128 tokens and more, of which 11 and more are trained; the longest are cut at 160."""
    conversations = [[system("Count."), user(f"To {n}"), answer(" ".join(map(str, range(n))))] for n in range(1, 24)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    shape: dict[str, Any] = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": None, "seq_length": LENGTH}
    options = {"chat_template": CHATML, "splits": (0.7, 0.3, 0.0), "cache_dir": str(tmp_path / "cache")}
    data = SFTData([str(file)], **shape, **options)
    data.prepare()
    return data


def train(folder: Path, data: SFTData, size: int, length: int | None = None, cls: Any = None, **options: Any) -> Result:
    model = build_decoder(ModelConfig.from_mapping({**SIZES, **PLAIN}), data.tokenizer.vocab_size, vocab_padding_unit=8, init_std=0.1)
    trainer = tiny_trainer(
        folder,
        model,
        data.train,
        data.eval,
        cls,
        options={"data_collator": functools.partial(collate_rows, length=length), **options},
        per_device_train_batch_size=GLOBAL_BATCH // size,
        per_device_eval_batch_size=3,
        gradient_accumulation_steps=2,
        adam_epsilon=1e-4,
        save_strategy="no",
        grad_norm_log_interval="log",
    )
    trainer.train()
    return Result(trainer)


@pytest.mark.parametrize(
    ("sizes", "cls"),
    [
        ({"dp_replicate": 2}, None),
        ({"dp_shard": 2}, None),
        ({"tensor_parallel_size": 2}, None),
        ({"context_parallel_size": 2}, None),
        (None, AccelTrainer),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_two_processes_learn_what_one_does(data: SFTData, tmp_path: Path, sizes: dict[str, int] | None, cls: Any) -> None:
    """Rows are as long as the longest of their batch, which differs from process to process; slices need a fixed length."""
    is_shared = sizes is None or "dp" in next(iter(sizes))
    length = LENGTH if sizes == {"context_parallel_size": 2} else None
    options = {} if sizes is None else {"device_parameters": spread_over(**sizes)}
    alone = train(tmp_path / "one", data, 1)
    for found in run(lambda: train(tmp_path / "two", data, 2 if is_shared else 1, length, cls, **options), 2):
        assert [loss for _, loss in found.losses] == pytest.approx([loss for _, loss in alone.losses], rel=1e-5)
        assert found.norms == pytest.approx(alone.norms, rel=1e-4)
        assert found.evaluation == pytest.approx(alone.evaluation, rel=1e-5)
        for name, value in alone.weights.items():
            torch.testing.assert_close(found.weights[name], value, atol=1e-5, rtol=1e-4)
