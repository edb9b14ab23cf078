"""The `model` group refuses what cannot be built, and counts what can."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml

import ironloom
from ironloom.errors import ConfigError
from ironloom.models import Decoder
from ironloom.settings.model import ModelConfig, count_parameters, padded_size, shape_names
from models.twins import small

PRESETS = sorted((Path(ironloom.__file__).parent / "library" / "model").glob("*.yaml"))
GPT2_SIZES = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}


def preset(name: str) -> ModelConfig:
    path = next(path for path in PRESETS if path.stem == name)
    return ModelConfig.from_mapping(yaml.safe_load(path.read_text()))


def meta_count(config: ModelConfig, vocab_size: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config, vocab_size).parameters())


def test_defaults_are_those_of_the_model_group():
    config = ModelConfig()
    positions = config.to_dict().pop("positional_embedding")
    stretched = {"scaling": "linear", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192}
    assert positions == {"type": "absolute", "base": 10000, "scaling_factor": 1.0, "offset": 0, **stretched}
    expected = {
        "d_model": 512,
        "d_ffn": 2048,
        "num_layers": 2,
        "num_attention_heads": 8,
        "num_attention_groups": None,
        "head_dim": 128,
        "max_seq_len": 512,
        "precision": "bfloat16",
        "ln_type": "layernorm",
        "ln_eps": 1e-5,
        "post_ln": False,
        "activation_type": "gelu",
        "dropout_embd": 0.1,
        "dropout_attn": 0.1,
        "dropout_mlp": 0.1,
        "no_bias": False,
        "untie_embed": False,
        "tokenizer_type": "gpt2",
        "vocab_name_or_path": "gpt2",
        "attention_bias": None,
        "qk_norm": False,
        "sliding_window": None,
        "sliding_window_layers": None,
        "embedding_scale": 1.0,
    }
    assert {name: getattr(config, name) for name in shape_names() if name != "positional_embedding"} == expected
    assert (config.name_or_path, config.from_scratch, config.lora.r) == (None, False, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_groups": 3}, "num_attention_groups: 3 groups do not divide 8 heads"),
        ({"num_attention_groups": 16}, "num_attention_groups: 16 groups do not divide 8 heads"),
        ({"head_dim": 7, "positional_embedding": {"type": "rope"}}, "head_dim: rotary positions turn pairs"),
        ({"positional_embedding": {"base": 500.0}}, "base: has no effect with type 'absolute'"),
        ({"positional_embedding": {"type": "none", "offset": 3}}, "offset: has no effect with type 'none'"),
        ({"positional_embedding": {"type": "rope", "scaling_factor": 0}}, "scaling_factor: expected a number greater"),
        ({"positional_embedding": {"type": "alibi"}}, "type: expected one of"),
        ({"positional_embedding": {"scaling": "llama3"}}, "scaling: has no effect with type 'absolute' (set type: rope"),
        (
            {"positional_embedding": {"type": "rope", "original_max_seq_len": 64}},
            "has no effect with scaling 'linear' (set scaling: llama3",
        ),
        ({"positional_embedding": {"type": "rope", "scaling": "llama3", "low_freq_factor": 5.0}}, "must be more than low_freq_factor"),
        ({"sliding_window_layers": [0]}, "sliding_window_layers: has no effect without sliding_window"),
        (
            {"sliding_window": 4, "sliding_window_layers": [2]},
            "sliding_window_layers: there is no layer 2 (layers are counted from 0 to 1)",
        ),
        ({"activation_type": "tanh"}, "activation_type: expected one of"),
        ({"dropout_attn": 1.0}, "dropout_attn: expected a number less than 1"),
        ({"ln_eps": math.nan}, "ln_eps: expected a finite number"),
        ({"d_ffn": 0}, "d_ffn: expected a number of at least 1"),
        ({"from_scratch": True}, "from_scratch: has no effect without name_or_path"),
        ({"lora": {"r": 4}}, "lora: adapters need a model that is trained already (set name_or_path)"),
        ({"lora": {"alpha": 4.0}}, "alpha: has no effect without r"),
        ({"name_or_path": "x", "lora": {"r": 4, "target_modules": []}}, "target_modules: names no layer"),
        ({"name_or_path": "x", "d_model": 64}, "d_model: has no effect with name_or_path: that model has its own"),
        ({"num_heads": 4}, "did you mean 'num_attention_heads'"),
    ],
)
def test_impossible_shapes_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_mapping(values)
    assert message in str(caught.value)


def test_an_odd_head_is_fine_without_rotation():
    assert ModelConfig(head_dim=7).head_dim == 7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"post_ln": True},
        {"no_bias": True},
        {"ln_type": "rmsnorm"},
        {"activation_type": "geglu"},
        {"num_attention_groups": 2, "head_dim": 24},
        {"untie_embed": True},
        {"positional_embedding": {"type": "none"}},
        {"attention_bias": "qkv", "no_bias": True, "qk_norm": True},
        {"attention_bias": "none"},
        {"attention_bias": "all", "no_bias": True, "sliding_window": 4},
        {"positional_embedding": {"type": "rope"}, "activation_type": "swiglu", "ln_type": "rmsnorm", "no_bias": True, "post_ln": True},
    ],
)
def test_the_count_is_that_of_the_model(changes):
    config = small(**changes)
    assert count_parameters(config, 61) == meta_count(config, 61)


def test_padding_goes_to_the_next_multiple():
    assert [padded_size(size, 128) for size in (1, 128, 129, 50257)] == [128, 128, 256, 50304]


def test_there_are_eight_presets_and_all_load():
    names = [path.stem for path in PRESETS]
    assert names == ["gpt2-large", "gpt2-medium", "gpt2-small-fp32", "gpt2-small", "gpt2-xl", "gpt2", "gpt3", "llama"]
    for name in names:
        preset(name)


@pytest.mark.parametrize("size", GPT2_SIZES)
def test_gpt2_presets_have_the_published_number_of_parameters(size):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = preset(f"gpt2-{size}")
    assert count_parameters(config, 50257) == meta_count(config, 50257) == GPT2_SIZES[size]
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(n_embd=config.d_model, n_layer=config.num_layers, n_head=config.num_attention_heads))
    assert theirs.num_parameters() == GPT2_SIZES[size]
    assert theirs.config.resid_pdrop == theirs.config.attn_pdrop == config.dropout_attn == config.dropout_mlp
    assert (theirs.config.embd_pdrop, theirs.config.layer_norm_epsilon) == (config.dropout_embd, config.ln_eps)
    assert (theirs.config.n_positions, theirs.config.activation_function) == (config.max_seq_len, "gelu_new")
    assert config.activation_type == "gelu_tanh"


def test_gpt2_in_other_words_is_the_small_one():
    small = preset("gpt2-small").to_dict()
    assert preset("gpt2-small-fp32").to_dict() == {**small, "precision": "float32"}
    assert preset("gpt2").to_dict() == {**small, "dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0}


def test_the_llama_preset_is_llama_3_8b():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = preset("llama")
    assert count_parameters(config, 128256) == meta_count(config, 128256) == 8_030_261_248
    with torch.device("meta"):
        theirs = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
                max_position_embeddings=8192,
                rms_norm_eps=1e-5,
                rope_parameters={"rope_theta": 500000.0, "rope_type": "default"},
            )
        )
    with torch.device("meta"):
        ours = Decoder(config, 128256)
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert {name: parameter.shape for name, parameter in ours.named_parameters()} == shapes
    assert config.positional_embedding.base == theirs.config.rope_parameters["rope_theta"]


def test_the_gpt3_preset_is_the_papers_6_7b():
    assert round(count_parameters(preset("gpt3"), 50257) / 1e9, 1) == 6.7
