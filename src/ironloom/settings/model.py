"""The shape of the built-in decoder as plain settings, and its parameter count. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import Settings, setting

Activation = Literal["gelu", "gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "silu", "relu", "swiglu", "geglu"]
Tokenizer = Literal["gpt2", "bbpe", "llama", "byte", "tiktoken", "sentencepiece"]
GATED_ACTIVATIONS = ("swiglu", "geglu")

Count = Annotated[int, Ge(1)]
Positive = Annotated[FiniteFloat, Gt(0)]
Probability = Annotated[FiniteFloat, Ge(0), Lt(1)]


@dataclasses.dataclass
class PositionalEmbedding(Settings):
    """How the decoder learns where a token stands."""

    type: Literal["absolute", "rope", "none"] = setting(
        "absolute", "absolute: a learned vector per position; rope: rotated queries and keys; none: only the causal mask"
    )
    base: Positive = setting(10000.0, "Base of the rotary wavelengths; only with type rope")
    scaling_factor: Positive = setting(1.0, "Rotary positions are divided by it (linear interpolation); only with rope")
    offset: Annotated[int, Ge(0)] = setting(0, "Rotary position of the first token; only with type rope")

    def problems(self) -> Iterable[Problem]:
        """Rotary settings without rotation."""
        if self.type == "rope":
            return
        for field in dataclasses.fields(self)[1:]:
            if getattr(self, field.name) != field.default:
                hint = f"set type: rope, or leave the key at {field.default:g}"
                yield Problem(f"has no effect with type {self.type!r}", path=field.name, hint=hint)


@dataclasses.dataclass
class ModelConfig(Settings):
    """The built-in decoder: everything that fixes its shape, and how its text becomes tokens."""

    d_model: Count = setting(512, "Width of the hidden states")
    d_ffn: Count = setting(2048, "Width inside the feed-forward block")
    num_layers: Count = setting(2, "Number of transformer layers")
    num_attention_heads: Count = setting(8, "Number of query heads")
    num_attention_groups: Count | None = setting(None, "Number of key and value heads; null means one per query head")
    head_dim: Count = setting(128, "Width of one attention head; heads times head_dim need not be d_model")
    max_seq_len: Count = setting(512, "Longest sequence of training, and size of a learned position table")
    precision: Literal["bfloat16", "float16", "float32"] = setting(
        "bfloat16", "Arithmetic of training; the weights themselves are kept in float32"
    )
    ln_type: Literal["layernorm", "rmsnorm"] = setting("layernorm", "Kind of normalisation")
    ln_eps: Positive = setting(1e-5, "Added to the variance before its root is taken")
    post_ln: bool = setting(False, "Normalise after each residual addition instead of before each block")
    activation_type: Activation = setting(
        "gelu", "Feed-forward activation; gelu is exact, gelu_tanh approximate, swiglu and geglu are gated"
    )
    dropout_embd: Probability = setting(0.1, "Dropout on the embeddings")
    dropout_attn: Probability = setting(0.1, "Dropout on the attention weights and on the attention output")
    dropout_mlp: Probability = setting(0.1, "Dropout on the feed-forward output")
    no_bias: bool = setting(False, "Leave out every bias, of linear layers and of norms")
    untie_embed: bool = setting(False, "Give the output its own weights instead of the embedding's")
    tokenizer_type: Tokenizer = setting("gpt2", "Kind of tokenizer")
    vocab_name_or_path: str | None = setting("gpt2", "Tokenizer folder or Hugging Face id; null trains one on the corpus")
    positional_embedding: PositionalEmbedding = setting(default_factory=PositionalEmbedding, doc="How positions enter the model")

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads, with null resolved to one per query head."""
        return self.num_attention_groups or self.num_attention_heads

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward block multiplies by an activated gate (Shazeer 2020, arXiv:2002.05202)."""
        return self.activation_type in GATED_ACTIVATIONS

    def problems(self) -> Iterable[Problem]:
        """Heads that cannot be grouped or turned."""
        if self.num_attention_heads % self.num_key_value_heads:
            yield Problem(
                f"{self.num_key_value_heads} groups do not divide {self.num_attention_heads} heads",
                path="num_attention_groups",
                hint="num_attention_heads must be a multiple of it",
            )
        if self.positional_embedding.type == "rope" and self.head_dim % 2:
            yield Problem(
                f"rotary positions turn pairs of numbers, so {self.head_dim} must be even",
                path="head_dim",
                hint=f"use {self.head_dim + 1}",
            )


def padded_size(vocab_size: int, unit: int) -> int:
    """``vocab_size`` rounded up to a multiple of ``unit``."""
    return -(-vocab_size // unit) * unit


def count_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Number of weights of the decoder; shared embeddings count once.

    Args:
        config: The shape.
        vocab_size: Rows of the embedding. Give the padded size to count the padding too.
    """
    width, heads, groups = config.d_model, config.num_attention_heads, config.num_key_value_heads
    norm = width if config.no_bias or config.ln_type == "rmsnorm" else 2 * width
    attention = 2 * width * (heads + groups) * config.head_dim
    up_projections = 2 if config.is_gated else 1
    feed_forward = (up_projections + 1) * width * config.d_ffn
    biases = 0
    if not config.no_bias:
        biases = (heads + 2 * groups) * config.head_dim + width + up_projections * config.d_ffn + width
    layer = attention + feed_forward + biases + 2 * norm
    embeddings = vocab_size * width * (2 if config.untie_embed else 1)
    if config.positional_embedding.type == "absolute":
        embeddings += config.max_seq_len * width
    final_norm = 0 if config.post_ln else norm
    return embeddings + config.num_layers * layer + final_norm
