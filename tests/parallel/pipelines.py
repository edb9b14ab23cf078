"""Small causal language models, uneven data and runs that tests of pipelines share."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import torch.distributed.pipelining  # seconds of imports, once before the tests fork
from torch import nn

from ironloom.models import build_decoder
from ironloom.settings.model import ModelConfig
from ironloom.settings.pipeline import SCHEDULES

VOCABULARY = 31
KINDS = ("tied", "untied", "post_ln", "llama", "llama_tied", "gpt2")


def small_model(kind: str) -> nn.Module:
    """A model of five or four layers, the same weights at every call."""
    if kind in ("tied", "untied", "post_ln"):
        shape = {"d_model": 32, "d_ffn": 64, "num_layers": 5, "num_attention_heads": 4, "num_attention_groups": 2, "head_dim": 8}
        none = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0}
        variant = {"untie_embed": kind == "untied", "post_ln": kind == "post_ln"}
        position = {"type": "absolute"} if kind == "post_ln" else {"type": "rope"}
        config = ModelConfig.from_mapping({**shape, **none, **variant, "max_seq_len": 32, "positional_embedding": position})
        return build_decoder(config, VOCABULARY, init_std=0.1)
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
            return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=32, **none))
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=kind == "llama_tied", **shape))


def texts(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Samples of different lengths, some of whose labels are masked."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        length = int(torch.randint(6, 13, (), generator=draw))
        ids = torch.randint(0, VOCABULARY, (length,), generator=draw)
        labels = ids.clone()
        # The first token is no target: it would be one of the padding before it.
        labels[: int(torch.randint(1, length - 1, (), generator=draw))] = -100
        samples.append({"input_ids": ids, "labels": labels})
    return samples


def padded(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch as long as its longest sample, padded in front so that masks matter."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def row(values: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.cat((torch.full((longest - len(values),), fill), values))

    return {
        "input_ids": torch.stack([row(sample["input_ids"], 0) for sample in samples]),
        "labels": torch.stack([row(sample["labels"], -100) for sample in samples]),
        "attention_mask": torch.stack([row(torch.ones_like(sample["input_ids"]), 0) for sample in samples]),
    }


def arguments(folder: str, **changes: Any) -> dict[str, Any]:
    """20 steps of two batches of up to 8, each logged, evaluated twice."""
    return {
        "output_dir": folder,
        "disable_tqdm": True,
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 5,
        "gradient_accumulation_steps": 2,
        "max_steps": 20,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_strategy": "no",
        "learning_rate": 2e-3,
        "max_grad_norm": 0.5,
        # Where a gradient is zero but for rounding (the bias of keys), Adam would make steps of it.
        "adam_epsilon": 1e-4,
        **changes,
    }


def data(train: int = 43) -> dict[str, Any]:
    """An epoch whose last batch is short: 43 = 5 x 8 + 3 samples."""
    return {"train_dataset": texts(train), "eval_dataset": texts(7, seed=1), "data_collator": padded}


def pipeline_trainer(kind: str, folder: str, schedule: str, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A trainer in one of several processes, each with two stages where the schedule takes them."""
    from ironloom.parallel import DistributedEnvironment
    from ironloom.trainer.pipeline_trainer import PipelineTrainer

    per_rank = SCHEDULES[schedule].least
    values = {"schedule_class": schedule, "pipeline_chunks": 4, "stages_per_rank": per_rank, **changes}
    environment = DistributedEnvironment(use_cpu=True)
    return PipelineTrainer(small_model(kind), arguments(folder, **values), **data(), distributed_env=environment, **(options or {}))


def one_process(kind: str, weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> list[dict[str, float]]:
    """The history of the same run in one process, whose last weights are put into ``weights``."""
    from ironloom import Trainer

    trainer = Trainer(small_model(kind), arguments(tempfile.mkdtemp(), **changes), **data())
    trainer.train()
    if weights is not None:
        weights.update({name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()})
    return numbers(trainer)


def numbers(trainer: Any) -> list[dict[str, float]]:
    """Losses and gradient norms of every record."""
    records = [record for record in trainer.state.log_history if "train_runtime" not in record]
    return [{key: record[key] for key in ("loss", "grad_norm", "eval_loss") if key in record} for record in records]


def deviation(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The greatest relative difference of two histories with the same records."""
    assert [record.keys() for record in one] == [record.keys() for record in other]
    return max(abs(mine[key] - theirs[key]) / abs(mine[key]) for mine, theirs in zip(one, other, strict=True) for key in mine)


def with_pipeline(model: Any, values: dict[str, Any], **options: Any) -> Any:
    """The plain trainer, told what a pipeline is to be."""
    from ironloom import Trainer
    from ironloom.settings.pipeline import PipelineTrainingArguments

    return Trainer(model, PipelineTrainingArguments(**values), **options)
