"""Starting values depend on the seed and the parameter's name, and have the promised sizes."""

from __future__ import annotations

import math

import pytest
import torch

from ironloom.models import Decoder, build_decoder
from ironloom.models.init import initialize
from models.twins import VOCABULARY, llama_shape, small, tokens


def built(config=None, **options):
    return build_decoder(config or small(), VOCABULARY, **options)


def test_neither_order_nor_depth_nor_global_randomness_changes_a_weight():
    expected = dict(built(small(num_layers=2, untie_embed=True)).named_parameters())
    torch.manual_seed(99)
    other = Decoder(small(num_layers=3, untie_embed=True), VOCABULARY, 128)
    state = torch.get_rng_state()
    initialize(other, 1337, 0.006)
    assert torch.equal(torch.get_rng_state(), state)
    compared = 0
    for name, parameter in other.named_parameters():
        if name in expected and "o_proj" not in name and "down_proj" not in name:
            assert torch.equal(parameter, expected[name]), name
            compared += 1
    assert compared > 20


def test_the_size_of_the_padding_changes_no_weight():
    narrow, wide = built(vocab_padding_unit=1), built(vocab_padding_unit=256)
    assert narrow.output_weight.shape[0] == VOCABULARY
    assert wide.output_weight.shape[0] == 256
    assert torch.equal(narrow.output_weight, wide.output_weight[:VOCABULARY])
    assert wide.output_weight[VOCABULARY:].count_nonzero() == 0
    assert torch.equal(narrow(tokens()).logits, wide(tokens()).logits)


def test_another_seed_and_another_name_give_other_values():
    one, other = dict(built(seed=1).named_parameters()), dict(built(seed=2).named_parameters())
    matrices = [name for name in one if one[name].dim() == 2]
    assert len(matrices) == 2 + 2 * 6
    assert not [name for name in matrices if torch.equal(one[name], other[name])]
    first, second = (one[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1))
    assert not torch.equal(first, second)


WIDE = {"d_model": 256, "d_ffn": 512, "num_layers": 8, "head_dim": 64}


def test_deviations_are_the_promised_ones():
    model = built(small(**WIDE), init_std=0.02)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert parameter.unique().tolist() == [0.0 if name.endswith("bias") else 1.0], name
            continue
        expected = 0.02 / math.sqrt(16) if "o_proj" in name or "down_proj" in name else 0.02
        values = parameter[:VOCABULARY] if "embed_tokens" in name else parameter
        assert values.std().item() == pytest.approx(expected, rel=0.05), name
        assert abs(values.mean().item()) < 5 * expected / math.sqrt(values.numel()), name


def test_xavier_deviations_follow_from_the_layers_widths():
    model = built(small(**WIDE, untie_embed=True), init_std=0.02, xavier_init=True)
    layer = model.model.layers[3]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 768), rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 768 / 16), rel=0.05)
    assert model.lm_head.weight[:VOCABULARY].std().item() == pytest.approx(math.sqrt(2 / (VOCABULARY + 256)), rel=0.05)
    assert model.model.embed_tokens.weight[:VOCABULARY].std().item() == pytest.approx(0.02, rel=0.05)


def test_a_new_decoder_is_float32_and_whole():
    model = built(llama_shape(), eos_token_id=7)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.vocab_size, model.padded_vocab_size, model.eos_token_id) == (VOCABULARY, 128, 7)
    assert model.training
    assert model(tokens()).logits.isfinite().all()
    fresh = Decoder(llama_shape(), VOCABULARY)
    with torch.no_grad():
        model.model.rotary.cos.fill_(math.nan)
    initialize(model, 1337, 0.006)
    assert torch.equal(model.model.rotary.cos, fresh.model.rotary.cos)


def test_there_must_be_memory_to_fill():
    with torch.device("meta"):
        model = Decoder(small(), VOCABULARY)
    with pytest.raises(ValueError, match=r"to_empty"):
        initialize(model, 0, 0.02)
