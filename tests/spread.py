"""Small models of every family that is spread over processes, and a run of one that is compared with one process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Imported before the processes are forked, which would each need seconds for them.
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor.parallel
import transformers
from torch import nn

from ironloom.models.build import build_decoder
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.model import ModelConfig
from spawned import run
from tiny import VOCABULARY, losses, tiny_lm, tiny_trainer, uneven_samples

STEPS = 20
GLOBAL_BATCH = 4


def decoder(**options: Any) -> nn.Module:
    sizes = {"d_model": 16, "num_layers": 2, "num_attention_heads": 4, "num_attention_groups": 2, "head_dim": 4, "d_ffn": 32}
    plain = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0, "max_seq_len": 16}
    config = ModelConfig.from_mapping({**sizes, **plain, **options})
    return build_decoder(config, VOCABULARY, vocab_padding_unit=8, init_std=0.1)


def gated_decoder() -> nn.Module:
    return decoder(activation_type="swiglu", ln_type="rmsnorm", positional_embedding={"type": "rope"}, no_bias=True, untie_embed=True)


def of_transformers(family: str, **options: Any) -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY, **sizes, **ends, **options)
        model: nn.Module = getattr(transformers, f"{family}ForCausalLM")(config)
        return model


def gpt2() -> nn.Module:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **dropout))
        return model


def partly_frozen() -> nn.Module:
    """As an adapter leaves it: some matrices and the norms are trained."""
    model = of_transformers("Llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name or "norm" in name)
    return model


MODELS = {
    "tiny": tiny_lm,
    "decoder": decoder,
    "decoder, gated, untied": gated_decoder,
    "llama": lambda: of_transformers("Llama"),
    "llama, tied": lambda: of_transformers("Llama", tie_word_embeddings=True),
    "qwen2": lambda: of_transformers("Qwen2"),
    "mistral": lambda: of_transformers("Mistral"),
    "mistral, window": lambda: of_transformers("Mistral", sliding_window=3),
    "gpt2": gpt2,
    "llama, partly frozen": partly_frozen,
}


def packed_rows(count: int, length: int = 12, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of one to three documents, kept apart by their positions; no label is the first token of a document."""
    draw, samples = np.random.default_rng(seed), []
    for sample in uneven_samples(count, length, seed):
        ends = sorted({int(end) for end in draw.integers(2, length, int(draw.integers(0, 3)))})
        where = torch.cat([torch.arange(end - begin) for begin, end in zip([0, *ends], [*ends, length], strict=True)])
        samples.append({**sample, "labels": sample["labels"].masked_fill(where == 0, -100), "position_ids": where})
    return samples


def weighted_rows(count: int, length: int = 12, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows whose labels weigh between 0 and 3, some of them nothing; every other sample weighs little."""
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for number, sample in enumerate(uneven_samples(count, length, seed)):
        weights = (3.5 * torch.rand(length, generator=draw) - 0.5).clamp(min=0) * (0.01 if number % 2 else 1)
        samples.append({**sample, "loss_weights": weights})
    return samples


#: What a run trains on, of so many samples.
DATA = {"uneven": uneven_samples, "packed": packed_rows, "weighted": weighted_rows}


def spread_over(**sizes: Any) -> DeviceParameters:
    """Parameters in float32; sizes that are not named are 1."""
    return DeviceParameters(**{"dp_replicate": 1, "param_dtype": "float32", **sizes})


class Result:
    """What a run computed: losses and norms by step, evaluation, counts, full weights."""

    def __init__(self, trainer: Any):
        records = [record for record in trainer.state.log_history if "loss" in record]
        self.losses = losses(trainer.state.log_history)
        self.norms = [record["grad_norm"] for record in records]
        self.evaluation = trainer.evaluate()["eval_loss"]
        self.counts = (trainer.state.global_step, trainer.state.num_input_tokens_seen, trainer.state.num_target_tokens_seen)
        self.weights = {name: whole(parameter) for name, parameter in trainer.model.named_parameters()}


def whole(tensor: Any) -> torch.Tensor:
    """A copy of all of a tensor, wherever its parts are."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    copy: torch.Tensor = full.detach().clone()
    return copy


def train(make: Any, parameters: DeviceParameters | None, data_size: int, cls: Any = None, data: str = "uneven", **args: Any) -> Result:
    """Train in this process, or in this process's part of several; the samples of a step are the same for any ``data_size``.

    ``cls`` makes the trainer of what ``Trainer`` takes; None: ``Trainer`` itself. ``data`` is a name in :data:`DATA`.
    """
    values = {
        "per_device_train_batch_size": GLOBAL_BATCH // data_size,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "save_strategy": "no",
        "grad_norm_log_interval": "log",
        "max_grad_norm": 0.5,
        # Where a gradient is zero but for rounding (the bias of keys), Adam would make steps of it.
        "adam_epsilon": 1e-4,
        **args,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = tiny_trainer(Path(folder), make(), DATA[data](23), cls=cls, options={"device_parameters": parameters}, **values)
        trainer.train()
        return Result(trainer)


def together(make: Any, nproc: int, parameters: DeviceParameters | None, data_size: int, timeout: float = 60, **args: Any) -> list[Result]:
    """:func:`train` in several processes."""
    return run(lambda: train(make, parameters, data_size, **args), nproc, timeout=timeout)


class Errors(NamedTuple):
    """Largest relative differences of two runs: of losses (evaluation too) and norms by step, of all weights together."""

    losses: float
    norms: float
    weights: float


def errors(one: Result, other: Result) -> Errors:
    """How far ``other`` is from ``one``; of the weights those count that ``other`` has."""
    assert one.counts == other.counts
    assert [step for step, _ in one.losses] == [step for step, _ in other.losses] == list(range(1, STEPS + 1))
    losses = [*zip([loss for _, loss in one.losses], [loss for _, loss in other.losses], strict=True), (one.evaluation, other.evaluation)]
    norms = zip(one.norms, other.norms, strict=True)
    return Errors(*(max(abs(a - b) / abs(a) for a, b in pairs) for pairs in (losses, norms)), distance(one.weights, other.weights))


def distance(expected: Mapping[str, torch.Tensor], held: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference over norm, of all weights that are held."""
    difference = math.sqrt(sum(float((expected[name] - held[name]).square().sum()) for name in held))
    return difference / math.sqrt(sum(float(expected[name].square().sum()) for name in held))


def largest_error(one: Result, other: Result) -> float:
    """The largest of all :func:`errors` of two runs that have the same weights."""
    assert one.weights.keys() == other.weights.keys()
    return max(errors(one, other))
