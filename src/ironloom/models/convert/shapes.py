"""Configurations of families of ``transformers`` and the settings of a decoder, each made from the other.

``read_*`` takes a configuration as ``transformers`` completes it and gives settings; ``write_*`` gives values of a configuration.
Knows no weights.
"""

from __future__ import annotations

import math
from typing import Any

from ironloom.errors import ConfigError
from ironloom.settings.model import ModelConfig

#: What activates the gate of a gated block, by what we call the whole.
_GATED = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh"}
_GATES = {gate: name for name, gate in _GATED.items()} | {"gelu_new": "geglu_tanh"}
_PLAIN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_pytorch_tanh"} | {
    name: name for name in ("silu", "relu")
}
_SLIDING = "sliding_attention"


def essence(settings: ModelConfig) -> dict[str, Any]:
    """What settings mean for the numbers that a decoder computes, however they are said."""
    position = settings.positional_embedding
    turned = position.type == "rope"
    scaled = turned and position.scaling_factor != 1.0
    special = scaled and position.scaling == "llama3"
    kept = ("d_model", "d_ffn", "num_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "max_seq_len", "ln_type")
    return {
        **{name: getattr(settings, name) for name in kept},
        **{name: getattr(settings, name) for name in ("post_ln", "no_bias", "untie_embed", "qk_norm")},
        "ln_eps": settings.ln_eps,
        "activation_type": "gelu_new" if settings.activation_type in ("gelu_tanh", "gelu_pytorch_tanh") else settings.activation_type,
        "attention_bias": (settings.has_qkv_bias, settings.has_output_bias),
        "sliding_window": [settings.window_of(layer) for layer in range(settings.num_layers)],
        "embedding_scale": float(f"{settings.embedding_scale:.6g}"),
        "positional_embedding.type": position.type,
        "positional_embedding.base": position.base if turned else None,
        "positional_embedding.offset": position.offset,
        "positional_embedding.scaling_factor": position.scaling_factor if turned else None,
        "positional_embedding.scaling": (position.low_freq_factor, position.high_freq_factor, position.original_max_seq_len)
        if special
        else None,
    }


def read_gpt2(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    return {
        "d_model": config.n_embd,
        "d_ffn": config.n_inner or 4 * config.n_embd,
        "num_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "head_dim": config.n_embd // config.n_head,
        "max_seq_len": config.n_positions,
        "ln_eps": config.layer_norm_epsilon,
        "activation_type": _known("activation_function", config.activation_function, {name: name for name in _PLAIN.values()}),
        "dropout_embd": config.embd_pdrop,
        "dropout_attn": config.attn_pdrop,
        "dropout_mlp": config.resid_pdrop,
        "untie_embed": not config.tie_word_embeddings,
    }


def write_gpt2(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return {
        "n_embd": settings.d_model,
        "n_inner": settings.d_ffn,
        "n_layer": settings.num_layers,
        "n_head": settings.num_attention_heads,
        "n_positions": settings.max_seq_len,
        "layer_norm_epsilon": settings.ln_eps,
        "activation_function": _PLAIN.get(settings.activation_type, "gelu_new"),
        "embd_pdrop": settings.dropout_embd,
        "attn_pdrop": settings.dropout_attn,
        "resid_pdrop": settings.dropout_mlp,
        "tie_word_embeddings": not settings.untie_embed,
    }


def read_llama(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    attention, feed_forward = getattr(config, "attention_bias", False), getattr(config, "mlp_bias", False)
    wanted = "all" if attention else "none"
    return {
        "d_model": config.hidden_size,
        "d_ffn": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_attention_groups": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "max_seq_len": config.max_position_embeddings,
        "ln_type": "rmsnorm",
        "ln_eps": config.rms_norm_eps,
        "activation_type": _known("hidden_act", config.hidden_act, _GATES),
        "dropout_embd": 0.0,
        "dropout_attn": config.attention_dropout,
        "dropout_mlp": 0.0,
        "no_bias": not feed_forward,
        "attention_bias": None if attention == feed_forward else wanted,
        "untie_embed": not config.tie_word_embeddings,
        "positional_embedding": _read_rope(config.rope_parameters),
    }


def write_llama(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return {
        "hidden_size": settings.d_model,
        "intermediate_size": settings.d_ffn,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": settings.num_attention_heads,
        "num_key_value_heads": settings.num_key_value_heads,
        "head_dim": settings.head_dim,
        "max_position_embeddings": settings.max_seq_len,
        "rms_norm_eps": settings.ln_eps,
        "hidden_act": _GATED.get(settings.activation_type, "silu"),
        "attention_dropout": settings.dropout_attn,
        "attention_bias": settings.has_output_bias,
        "mlp_bias": not settings.no_bias,
        "tie_word_embeddings": not settings.untie_embed,
        "rope_parameters": _write_rope(settings),
    }


def _read_rope(values: dict[str, Any]) -> dict[str, Any]:
    kind = values.get("rope_type", "default")
    known = {"rope_theta", "rope_type", "type", "factor"} | (
        {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"} if kind == "llama3" else set()
    )
    odd = sorted(name for name, value in values.items() if name not in known and not (name == "partial_rotary_factor" and value == 1.0))
    if kind not in ("default", "linear", "llama3") or (odd and kind != "default"):
        what = f"rope_type {kind!r}" if kind not in ("linear", "llama3") else f"{odd[0]} in its rope_parameters"
        raise ConfigError(
            f"the model's positions are of {what}, which the built-in decoder does not have: default, linear and llama3 it has"
        )
    if odd:
        raise ConfigError(f"the model's rope_parameters have {', '.join(odd)}, which the built-in decoder does not know")
    found = {"type": "rope", "base": float(values["rope_theta"])}
    if kind == "default":
        return found
    found["scaling_factor"] = float(values["factor"])
    if kind == "llama3":
        names = {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
        found |= {"scaling": "llama3", **{ours: float(values[theirs]) for ours, theirs in names.items()}}
        found["original_max_seq_len"] = int(values["original_max_position_embeddings"])
    return found


def _write_rope(settings: ModelConfig) -> dict[str, Any]:
    position = settings.positional_embedding
    values: dict[str, Any] = {"rope_theta": position.base, "rope_type": "default"}
    if position.scaling_factor != 1.0:
        values |= {"rope_type": position.scaling, "factor": position.scaling_factor}
        if position.scaling == "llama3":
            values |= {"low_freq_factor": position.low_freq_factor, "high_freq_factor": position.high_freq_factor}
            values["original_max_position_embeddings"] = position.original_max_seq_len
    return values


def _known(key: str, value: str, table: dict[str, str]) -> str:
    if value not in table:
        raise ConfigError(f"the model's {key} is {value!r}, which the built-in decoder does not have: it has {', '.join(sorted(table))}")
    return table[value]


def _read_windows(config: Any) -> dict[str, Any]:
    layers = [number for number, kind in enumerate(config.layer_types) if kind == _SLIDING]
    if not layers or config.sliding_window is None:
        return {}
    return {"sliding_window": config.sliding_window, "sliding_window_layers": None if len(layers) == len(config.layer_types) else layers}


def _write_windows(settings: ModelConfig) -> dict[str, Any]:
    windows = [settings.window_of(layer) for layer in range(settings.num_layers)]
    kinds = ["full_attention" if window is None else _SLIDING for window in windows]
    if settings.sliding_window is None or _SLIDING not in kinds:
        return {"use_sliding_window": False}
    first = kinds.index(_SLIDING)
    return {"use_sliding_window": True, "sliding_window": settings.sliding_window, "max_window_layers": first, "layer_types": kinds}


def read_qwen2(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    return read_llama(config) | {"attention_bias": "qkv"} | _read_windows(config)


def write_qwen2(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return _without(write_llama(settings), "attention_bias", "mlp_bias", "head_dim") | _write_windows(settings)


def read_qwen3(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    return read_llama(config) | {"qk_norm": True} | _read_windows(config)


def write_qwen3(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return _without(write_llama(settings), "mlp_bias") | _write_windows(settings)


def read_mistral(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    return read_llama(config) | {"sliding_window": config.sliding_window}


def write_mistral(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return _without(write_llama(settings), "attention_bias", "mlp_bias") | {"sliding_window": settings.sliding_window}


def read_gemma(config: Any) -> dict[str, Any]:
    """Settings of a decoder."""
    return read_llama(config) | {"embedding_scale": math.sqrt(config.hidden_size)}


def write_gemma(settings: ModelConfig) -> dict[str, Any]:
    """Values of the configuration."""
    return _without(write_llama(settings), "mlp_bias")


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
