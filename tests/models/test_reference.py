"""The decoder computes what GPT-2 and Llama of ``transformers`` compute with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from ironloom.models import attention
from ironloom.models.attention import causal_padding_mask
from ironloom.settings.model import ModelConfig
from models.twins import gpt2_twins, llama_twins, tokens

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def test_logits_are_those_of_gpt2():
    ours, theirs = gpt2_twins()
    ids = tokens(length=16)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **EXACT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("scaling", [1.0, 4.0])
def test_logits_are_those_of_llama(scaling, attention):
    ours, theirs = llama_twins(scaling, attention)
    ids = tokens(length=16)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **EXACT)


def test_gradients_are_those_of_llama():
    ours, theirs = llama_twins()
    ids = tokens()
    for model in (ours, theirs):
        cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, **EXACT)


@pytest.mark.parametrize("twins", [gpt2_twins, llama_twins])
def test_padding_and_positions_mean_what_they_mean_in_transformers(twins):
    ours, theirs = twins()
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    mask[2, -3:] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    seen = mask.bool()
    options = {"attention_mask": mask, "position_ids": positions}
    logits = ours(ids, **options).logits
    torch.testing.assert_close(logits[seen], theirs(ids, **options).logits[seen], **EXACT)
    assert logits.isfinite().all()


@pytest.mark.parametrize("twins", [gpt2_twins, llama_twins])
def test_given_positions_replace_the_counted_ones(twins):
    ours, theirs = twins()
    ids = tokens()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 9, 15]] * 3)
    mask = torch.ones_like(ids)  # without it the jumps are borders between documents
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(ours(ids, attention_mask=mask, position_ids=positions).logits, expected, **EXACT)


def test_rotary_sequences_may_be_longer_than_the_tables():
    ours, theirs = llama_twins()
    ids = tokens(length=40)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **EXACT)


def test_no_query_is_left_without_a_key():
    mask = causal_padding_mask(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))[:, 0].int()
    assert mask[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask[1].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_sequences_in_half_precision_equal_the_kernel(
    groups: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU short sequences go without the fused kernel: the same numbers, as near as the dtype allows, and gradients."""
    shape = ModelConfig(d_model=64, num_attention_heads=4, num_attention_groups=groups, head_dim=16, dropout_attn=0.0)
    torch.manual_seed(0)
    layer, x = attention.Attention(shape), torch.randn(2, 40, 64)
    found = []
    for short in (512, 0):
        monkeypatch.setattr(attention, "SHORT", short)
        layer.zero_grad()
        with torch.autocast("cpu", dtype):
            out = layer(x)
        out.float().square().sum().backward()
        found.append((out.detach().float(), layer.q_proj.weight.grad.clone()))
    (plain, plain_gradient), (kernel, kernel_gradient) = found
    exact = layer(x).detach()
    assert not torch.equal(plain, kernel), "the same path was taken twice"
    assert (plain - exact).norm() < 2 * (kernel - exact).norm() + 1e-3
    assert (plain_gradient - kernel_gradient).norm() < 0.03 * kernel_gradient.norm()
