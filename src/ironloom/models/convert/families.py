"""The families of ``transformers`` that the decoder can be: their weights' names and their configurations, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ironloom.models.convert import shapes
from ironloom.models.convert.rules import Rule
from ironloom.settings.model import ModelConfig


@dataclass(frozen=True)
class Family:
    """One architecture of ``transformers``.

    Attributes:
        model_type: Its name in ``config.json``.
        architecture: The class with a language-model head.
        rules: Where its weights are.
        read: Settings of a decoder from its configuration.
        write: Values of its configuration from the settings of a decoder; the reverse of ``read`` where it can be.
        prefix: What stands before all names but the head's; older files leave it out.
        buffers: Ends of names that older files hold beside the weights, and that are computed.
        compared: Keys of its configuration that decide what is computed.
    """

    model_type: str
    architecture: str
    rules: tuple[Rule, ...]
    read: Callable[[Any], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    prefix: str
    buffers: tuple[str, ...]
    compared: tuple[str, ...]


def _llama_rules(norm_offset: float = 0.0) -> tuple[Rule, ...]:
    """Our names are Llama's."""
    attention = [f"self_attn.{part}_proj.{kind}" for part in "qkvo" for kind in ("weight", "bias")]
    feed_forward = [f"mlp.{part}_proj.{kind}" for part in ("gate", "up", "down") for kind in ("weight", "bias")]
    norms = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    plain = ["model.embed_tokens.weight", "lm_head.weight", *(f"model.layers.*.{name}" for name in [*attention, *feed_forward])]
    shifted = ["model.norm.weight", *(f"model.layers.*.{name}" for name in norms)]
    return (*(Rule(name, name) for name in plain), *(Rule(name, name, offset=norm_offset) for name in shifted))


def _gpt2_rules() -> tuple[Rule, ...]:
    ours, theirs = "model.layers.*.", "transformer.h.*."
    rules = [
        Rule("model.embed_tokens.weight", "transformer.wte.weight"),
        Rule("model.embed_positions.weight", "transformer.wpe.weight"),
        Rule("lm_head.weight", "lm_head.weight"),
    ]
    for kind in ("weight", "bias"):
        matrix = kind == "weight"  # of Conv1D, which keeps [in, out]
        rules.append(Rule(f"model.norm.{kind}", f"transformer.ln_f.{kind}"))
        norms = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
        rules += [Rule(f"{ours}{name}.{kind}", f"{theirs}{other}.{kind}") for name, other in norms.items()]
        rules += [
            Rule(f"{ours}self_attn.{part}_proj.{kind}", f"{theirs}attn.c_attn.{kind}", matrix, (index, 3))
            for index, part in enumerate("qkv")
        ]
        lines = {"self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
        rules += [Rule(f"{ours}{name}.{kind}", f"{theirs}{other}.{kind}", matrix) for name, other in lines.items()]
    return tuple(rules)


_LLAMA_KEYS: tuple[str, ...] = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_LLAMA_KEYS += ("max_position_embeddings", "rms_norm_eps", "attention_bias", "mlp_bias", "tie_word_embeddings", "rope_parameters")
_WINDOW_KEYS = ("sliding_window", "layer_types")
_GPT2_KEYS: tuple[str, ...] = ("n_embd", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "tie_word_embeddings")
_GPT2_KEYS += ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")

_LLAMA = Family(
    "llama", "LlamaForCausalLM", _llama_rules(), shapes.read_llama, shapes.write_llama, "model.", ("rotary_emb.inv_freq",), _LLAMA_KEYS
)

#: In the order in which they are tried for a decoder that was trained here.
FAMILIES = {
    family.model_type: family
    for family in (
        _LLAMA,
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            _gpt2_rules(),
            shapes.read_gpt2,
            shapes.write_gpt2,
            "transformer.",
            (".attn.bias", ".attn.masked_bias"),
            _GPT2_KEYS,
        ),
        dataclasses.replace(
            _LLAMA,
            model_type="mistral",
            architecture="MistralForCausalLM",
            read=shapes.read_mistral,
            write=shapes.write_mistral,
            compared=(*_LLAMA_KEYS, "sliding_window"),
        ),
        dataclasses.replace(
            _LLAMA,
            model_type="qwen2",
            architecture="Qwen2ForCausalLM",
            read=shapes.read_qwen2,
            write=shapes.write_qwen2,
            compared=(*_LLAMA_KEYS, *_WINDOW_KEYS),
        ),
        dataclasses.replace(
            _LLAMA,
            model_type="qwen3",
            architecture="Qwen3ForCausalLM",
            read=shapes.read_qwen3,
            write=shapes.write_qwen3,
            compared=(*_LLAMA_KEYS, *_WINDOW_KEYS),
        ),
        dataclasses.replace(
            _LLAMA,
            model_type="gemma",
            architecture="GemmaForCausalLM",
            rules=_llama_rules(norm_offset=1.0),
            read=shapes.read_gemma,
            write=shapes.write_gemma,
            compared=(*_LLAMA_KEYS, "use_bidirectional_attention"),
        ),
    )
}
