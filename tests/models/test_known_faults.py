"""What other decoders of this configuration get wrong: each fault is a test."""

from __future__ import annotations

import typing

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from ironloom.models import build_decoder
from ironloom.settings.model import Activation, ModelConfig
from models.twins import VOCABULARY, small, tokens

NO_DROPOUT = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0}


def built(init_std=0.2, **shape):
    return build_decoder(small(**{**NO_DROPOUT, **shape}), VOCABULARY, init_std=init_std)


def test_rotation_is_by_position_and_not_by_sample():
    model, ids = built(positional_embedding={"type": "rope", "offset": 7}).eval(), tokens()
    together = model(ids).logits
    for row in range(len(ids)):
        torch.testing.assert_close(model(ids[row : row + 1]).logits[0], together[row])
    swapped = ids.clone()
    swapped[:, [0, 1]] = ids[:, [1, 0]]
    assert not torch.allclose(model(swapped).logits[:, -1], together[:, -1], atol=1e-4)
    without = built(positional_embedding={"type": "none"}, num_layers=1).eval()
    torch.testing.assert_close(without(swapped).logits[:, -1], without(ids).logits[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", typing.get_args(Activation))
def test_every_activation_and_norm_can_be_built_and_trained(activation, norm):
    model, ids = built(activation_type=activation, ln_type=norm), tokens()
    cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_without_groups_every_head_has_its_own():
    """By default, too: a configuration that says nothing of groups is multi-head attention."""
    alone, said = built(), built(num_attention_groups=small().num_attention_heads)
    ids = tokens()
    assert torch.equal(alone(ids).logits, said(ids).logits)
    assert ModelConfig().num_key_value_heads == ModelConfig().num_attention_heads == 8


@pytest.mark.parametrize("groups", [1, 2])
def test_fused_and_plain_attention_agree_on_groups(groups):
    model, ids = built(num_attention_groups=groups), tokens(length=16)
    fused = model(ids).logits
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(model(ids).logits, fused, atol=1e-5, rtol=1e-5)


def test_heads_need_not_fill_the_width():
    shape = small()
    model = built(head_dim=2 * shape.d_model // shape.num_attention_heads)
    assert model(tokens()).logits.isfinite().all()


@pytest.mark.parametrize("kernel", [SDPBackend.MATH, None])
def test_dropout_ends_with_training(kernel):
    model, ids = build_decoder(small(dropout_embd=0.3, dropout_attn=0.3, dropout_mlp=0.3), VOCABULARY), tokens()
    kernels = [kernel] if kernel is not None else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels):
        assert not torch.equal(model(ids).logits, model(ids).logits)
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_padding_of_the_vocabulary_is_no_possible_token():
    model, ids = build_decoder(small(**NO_DROPOUT), VOCABULARY, vocab_padding_unit=256, init_std=0.2), tokens()
    logits = model(ids).logits
    assert logits.shape[-1] == VOCABULARY or (logits[..., VOCABULARY:] < -1e4).all()
    narrow = build_decoder(small(**NO_DROPOUT), VOCABULARY, vocab_padding_unit=1, init_std=0.2)
    targets = ids[:, 1:].flatten()
    losses = [cross_entropy(one(ids).logits[:, :-1].flatten(0, 1), targets).item() for one in (model, narrow)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_post_norm_normalises_the_sum():
    """What leaves a layer is normalised; not only what the residual branch begins with."""
    model, found = built(post_ln=True).eval(), []
    model.model.layers[-1].register_forward_hook(
        lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    model(tokens())
    (hidden,) = found
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(hidden.shape[:-1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.var(-1, unbiased=False), torch.ones(hidden.shape[:-1]), atol=1e-3, rtol=0)
