"""The shape of the built-in decoder as plain settings, and its parameter count. Knows nothing of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import Settings, field_names, setting
from ironloom.settings.lora import Lora

Activation = Literal["gelu", "gelu_tanh", "gelu_new", "gelu_pytorch_tanh", "silu", "relu", "swiglu", "geglu", "geglu_tanh"]
Tokenizer = Literal["gpt2", "bbpe", "llama", "byte", "tiktoken", "sentencepiece"]
GATED_ACTIVATIONS = ("swiglu", "geglu", "geglu_tanh")
#: Keys of a model that is loaded instead of built; the shape of a decoder has none of them.
LOADED = ("name_or_path", "from_scratch", "lora")
#: Keys of what becomes of documents that share a row.
DOCUMENTS = ("reset_position_ids", "reset_attention_mask", "eod_mask_loss")
#: Keys that count with a loaded model, too: what is not a part of its shape.
_WITH_LOADED = (*LOADED, *DOCUMENTS, "max_seq_len", "precision", "tokenizer_type", "vocab_name_or_path")

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
    scaling_factor: Positive = setting(1.0, "Rotary positions are divided by it, all alike or as scaling says; only with rope")
    offset: Annotated[int, Ge(0)] = setting(0, "Rotary position of the first token; only with type rope")
    scaling: Literal["linear", "llama3"] = setting(
        "linear", "linear: scaling_factor divides every position; llama3: only in what turns slowly (Llama 3.1)"
    )
    low_freq_factor: Positive = setting(1.0, "With llama3: waves longer than original_max_seq_len over this are scaled wholly")
    high_freq_factor: Positive = setting(4.0, "With llama3: waves shorter than original_max_seq_len over this are not scaled")
    original_max_seq_len: Count = setting(8192, "With llama3: the length that the model was trained with before")

    def problems(self) -> Iterable[Problem]:
        """Rotary settings without rotation, or without the scaling they are of."""
        for field in dataclasses.fields(self)[1:]:
            of_llama3 = field.name in ("low_freq_factor", "high_freq_factor", "original_max_seq_len")
            if getattr(self, field.name) == field.default or (self.type == "rope" and not (of_llama3 and self.scaling != "llama3")):
                continue
            wanted, found = (
                ("type: rope", f"type {self.type!r}") if self.type != "rope" else ("scaling: llama3", f"scaling {self.scaling!r}")
            )
            shown = field.default if isinstance(field.default, str) else f"{field.default:g}"
            yield Problem(f"has no effect with {found}", path=field.name, hint=f"set {wanted}, or leave the key at {shown}")
        if self.scaling == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            yield Problem("must be more than low_freq_factor", path="high_freq_factor")


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
    attention_bias: Literal["all", "qkv", "none"] | None = setting(
        None, "Which linear layers of the attention have a bias: all, queries, keys and values, none; null: as no_bias says"
    )
    qk_norm: bool = setting(False, "Normalise each head of queries and keys (RMSNorm) before they are turned, as Qwen3 does")
    sliding_window: Count | None = setting(None, "How many tokens a token sees, itself among them; null: all before it")
    sliding_window_layers: list[int] | None = setting(None, "Numbers, from 0, of the layers with a sliding window; null: all")
    embedding_scale: Positive = setting(1.0, "Token embeddings are multiplied by it, as in Gemma by the root of d_model")
    reset_position_ids: bool = setting(True, "Positions begin again with each document of a row; else they run on through the row")
    reset_attention_mask: bool = setting(True, "No token sees another document of its row, and no label is in another one")
    eod_mask_loss: bool = setting(False, "pretrain: the token that ends a document is not trained")
    name_or_path: str | None = setting(
        None, "Instead of a new decoder: a model to begin with, ours or one of transformers, by folder or Hugging Face id"
    )
    from_scratch: bool = setting(False, "Of the model that name_or_path names take the architecture, and draw its weights")
    lora: Lora = setting(default_factory=Lora, doc="Train adapters of a loaded model instead of its weights (PEFT)")

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return not self.no_bias if self.attention_bias is None else self.attention_bias != "none"

    @property
    def has_output_bias(self) -> bool:
        """Whether the output of the attention has a bias."""
        return not self.no_bias if self.attention_bias is None else self.attention_bias == "all"

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token sees in a layer; None for all."""
        layers = self.sliding_window_layers
        return self.sliding_window if layers is None or layer in layers else None

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads, with null resolved to one per query head."""
        return self.num_attention_groups or self.num_attention_heads

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward block multiplies by an activated gate (Shazeer 2020, arXiv:2002.05202)."""
        return self.activation_type in GATED_ACTIVATIONS

    def problems(self) -> Iterable[Problem]:
        """Heads that cannot be grouped or turned, and keys of a new model for a loaded one."""
        yield from self._loading_problems()
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
        if self.sliding_window_layers is not None:
            yield from self._window_problems(self.sliding_window_layers)

    def _loading_problems(self) -> Iterable[Problem]:
        if self.name_or_path is None:
            if self.from_scratch:
                yield Problem("has no effect without name_or_path", path="from_scratch", hint="name the model, or leave the key out")
            if self.lora.r:
                yield Problem("adapters need a model that is trained already", path="lora", hint="set name_or_path")
            return
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"positional_embedding": PositionalEmbedding()}
        for name in field_names(type(self)):
            if name not in _WITH_LOADED and getattr(self, name) != defaults[name]:
                yield not_of_loaded(name)

    def _window_problems(self, layers: list[int]) -> Iterable[Problem]:
        if self.sliding_window is None:
            yield Problem("has no effect without sliding_window", path="sliding_window_layers", hint="set it, or leave the key out")
        wrong = [layer for layer in layers if not 0 <= layer < self.num_layers]
        if wrong:
            message = f"there is no layer {wrong[0]}"
            yield Problem(message, path="sliding_window_layers", hint=f"layers are counted from 0 to {self.num_layers - 1}")


def shape_names() -> list[str]:
    """Keys of the decoder's shape, and of its text: all but those of a model that is loaded, and of what shares a row."""
    return [name for name in field_names(ModelConfig) if name not in (*LOADED, *DOCUMENTS)]


def is_of_loaded(name: str) -> bool:
    """Whether a key counts with a loaded model."""
    return name in _WITH_LOADED


def not_of_loaded(name: str) -> Problem:
    """The problem of a key that a loaded model has its own value for."""
    return Problem("has no effect with name_or_path: that model has its own", path=name, hint="leave the key out")


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
    biases = 0 if config.no_bias else up_projections * config.d_ffn + width
    biases += config.has_qkv_bias * (heads + 2 * groups) * config.head_dim + config.has_output_bias * width
    biases += 2 * config.head_dim if config.qk_norm else 0
    layer = attention + feed_forward + biases + 2 * norm
    embeddings = vocab_size * width * (2 if config.untie_embed else 1)
    if config.positional_embedding.type == "absolute":
        embeddings += config.max_seq_len * width
    final_norm = 0 if config.post_ln else norm
    return embeddings + config.num_layers * layer + final_norm
