"""A decoder of ours and a model of ``transformers`` with the same weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ironloom.models import Decoder
from ironloom.settings.model import ModelConfig

VOCABULARY = 61


def small(**changes: Any) -> ModelConfig:
    """A shape that computes in a millisecond; dropout off, float32-sized numbers."""
    shape: dict[str, Any] = {
        "d_model": 32,
        "d_ffn": 48,
        "num_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "max_seq_len": 16,
        "dropout_embd": 0.0,
        "dropout_attn": 0.0,
        "dropout_mlp": 0.0,
    }
    return ModelConfig.from_mapping(shape | changes)


def decoder(config: ModelConfig | None = None, seed: int = 0, **options: Any) -> Decoder:
    """A decoder with every weight drawn, norms and biases too, so that none of them can be left out unnoticed."""
    model = Decoder(config or small(), VOCABULARY, **options)
    randomize(model, seed)
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2, generator=generator)


def tokens(batch: int = 3, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def gpt2_twins() -> tuple[Decoder, GPT2LMHeadModel]:
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_inner=48,
            n_layer=2,
            n_head=4,
            n_positions=16,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    randomize(theirs)
    ours = Decoder(small(activation_type="gelu_tanh"), VOCABULARY).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    return ours, theirs


def from_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's weights under Llama's names: linear layers transposed, the fused projection cut in three."""
    names = {
        r"transformer\.wte\.": "model.embed_tokens.",
        r"transformer\.wpe\.": "model.embed_positions.",
        r"transformer\.ln_f\.": "model.norm.",
        r"transformer\.h\.(\d+)\.ln_1\.": r"model.layers.\1.input_layernorm.",
        r"transformer\.h\.(\d+)\.ln_2\.": r"model.layers.\1.post_attention_layernorm.",
        r"transformer\.h\.(\d+)\.attn\.c_attn\.": r"model.layers.\1.self_attn.qkv.",
        r"transformer\.h\.(\d+)\.attn\.c_proj\.": r"model.layers.\1.self_attn.o_proj.",
        r"transformer\.h\.(\d+)\.mlp\.c_fc\.": r"model.layers.\1.mlp.up_proj.",
        r"transformer\.h\.(\d+)\.mlp\.c_proj\.": r"model.layers.\1.mlp.down_proj.",
    }
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "lm_head.weight":
            continue
        pattern = next(pattern for pattern in names if re.match(pattern, name))
        new = re.sub(pattern, names[pattern], name)
        if "_proj.weight" in new or "qkv.weight" in new:
            value = value.T
        if ".qkv." in new:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[new.replace("qkv", f"{part}_proj")] = piece
        else:
            renamed[new] = value
    return renamed


def llama_twins(rope_scaling: float = 1.0, attention: str = "sdpa", **changes: Any) -> tuple[Decoder, LlamaForCausalLM]:
    rope = {"rope_theta": 5000.0, "rope_type": "default"}
    if rope_scaling != 1.0:
        rope |= {"rope_type": "linear", "factor": rope_scaling}
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=16,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=attention,
        )
    ).eval()
    randomize(theirs)
    ours = Decoder(llama_shape(scaling_factor=rope_scaling), VOCABULARY).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def llama_shape(**rope: Any) -> ModelConfig:
    return small(
        num_attention_groups=2,
        head_dim=16,
        ln_type="rmsnorm",
        activation_type="swiglu",
        no_bias=True,
        untie_embed=True,
        positional_embedding={"type": "rope", "base": 5000.0} | rope,
    )
