"""Each setting of the decoder does what it says, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ironloom.models import Decoder
from ironloom.models.attention import Attention
from ironloom.models.mlp import MLP
from models.twins import VOCABULARY, decoder, llama_shape, randomize, small, tokens

ROPE = {"type": "rope"}


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("post_ln", [False, True])
def test_norms_stand_where_pytorchs_encoder_layer_has_them(post_ln):
    model = decoder(small(post_ln=post_ln))
    ids = tokens()
    x = model.model.embed_tokens.weight[ids] + model.model.embed_positions.weight[: ids.shape[1]]
    for layer in model.model.layers:
        x = pytorch_layer(layer, post_ln)(x, src_mask=nn.Transformer.generate_square_subsequent_mask(ids.shape[1]))
    if not post_ln:
        x = model.model.norm(x)
    torch.testing.assert_close(model(ids).logits, x @ model.model.embed_tokens.weight.T, atol=1e-5, rtol=1e-5)


def pytorch_layer(layer: nn.Module, post_ln: bool) -> nn.TransformerEncoderLayer:
    attention, mlp = layer.self_attn, layer.mlp
    first, second = (
        (layer.post_attention_layernorm, layer.post_feedforward_layernorm)
        if post_ln
        else (layer.input_layernorm, layer.post_attention_layernorm)
    )
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    theirs = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=not post_ln)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([projection.weight for projection in projections]),
            "self_attn.in_proj_bias": torch.cat([projection.bias for projection in projections]),
            "self_attn.out_proj.weight": attention.o_proj.weight,
            "self_attn.out_proj.bias": attention.o_proj.bias,
            "linear1.weight": mlp.up_proj.weight,
            "linear1.bias": mlp.up_proj.bias,
            "linear2.weight": mlp.down_proj.weight,
            "linear2.bias": mlp.down_proj.bias,
            "norm1.weight": first.weight,
            "norm1.bias": first.bias,
            "norm2.weight": second.weight,
            "norm2.bias": second.bias,
        }
    )
    return theirs


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", nn.GELU()),
        ("gelu_tanh", nn.GELU(approximate="tanh")),
        ("gelu_new", nn.GELU(approximate="tanh")),
        ("gelu_pytorch_tanh", nn.GELU(approximate="tanh")),
        ("silu", nn.SiLU()),
        ("relu", nn.ReLU()),
    ],
)
def test_plain_activations(name, function):
    mlp = MLP(small(activation_type=name))
    x = torch.randn(2, 3, 32) * 4
    torch.testing.assert_close(mlp(x), mlp.down_proj(function(mlp.up_proj(x))), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "function"), [("swiglu", nn.SiLU()), ("geglu", nn.GELU())])
def test_gated_activations(name, function):
    mlp = MLP(small(activation_type=name))
    x = torch.randn(2, 3, 32) * 4
    torch.testing.assert_close(mlp(x), mlp.down_proj(function(mlp.gate_proj(x)) * mlp.up_proj(x)), atol=0, rtol=0)


def test_no_token_sees_a_later_one():
    model = decoder(small(positional_embedding=ROPE))
    ids = tokens()
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCABULARY
    assert torch.equal(model(ids).logits[:, :7], model(changed).logits[:, :7])
    assert not torch.equal(model(ids).logits[:, 7:], model(changed).logits[:, 7:])


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_attention_is_multi_head_attention_with_repeated_heads(groups):
    grouped = decoder(small(num_attention_groups=groups))
    full = decoder(small())
    state = grouped.state_dict()
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            heads = state[name].unflatten(0, (groups, 8))
            state[name] = heads.repeat_interleave(4 // groups, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(tokens()).logits, full(tokens()).logits, atol=1e-5, rtol=1e-5)


def test_groups_of_null_are_one_per_head():
    assert decoder(small()).model.layers[0].self_attn.k_proj.weight.shape == (32, 32)


def test_head_width_need_not_follow_from_the_model_width():
    attention = decoder(small(head_dim=24)).model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (4 * 24, 32)
    assert attention.o_proj.weight.shape == (32, 4 * 24)
    assert attention(torch.randn(2, 5, 32)).shape == (2, 5, 32)


@pytest.mark.parametrize("setting", ["dropout_embd", "dropout_attn", "dropout_mlp"])
def test_dropout_acts_in_training_only(setting):
    model = decoder(small(**{setting: 0.5}))
    plain = decoder(small())
    ids = tokens()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, plain(ids).logits)


def test_attention_dropout_acts_on_weights_and_on_the_output():
    attention = Attention(small(dropout_attn=0.25, num_layers=1))
    with torch.no_grad():
        attention.v_proj.weight.zero_()
        attention.v_proj.bias.fill_(1.0)
        attention.o_proj.weight.copy_(torch.eye(32))
        attention.o_proj.bias.zero_()
    # Values are all one, so without dropout each output is the sum of the attention weights: one.
    out = attention(torch.randn(16, 16, 32))
    kept = out[out != 0] * 0.75
    assert 0.15 < (out == 0).float().mean() < 0.45
    assert (kept - 1).abs().max() > 0.05
    torch.testing.assert_close(attention.eval()(torch.randn(16, 16, 32)), torch.ones(16, 16, 32))


@pytest.mark.parametrize("untie", [False, True])
def test_padded_rows_take_no_part(untie):
    config = small(untie_embed=untie)
    plain, padded = decoder(config), Decoder(config, VOCABULARY, 128)
    randomize(padded, seed=1)
    with torch.no_grad():
        for mine, other in zip(padded.parameters(), plain.parameters(), strict=True):
            mine[: len(other)] = other
    ids = tokens()
    assert padded(ids).logits.shape == (3, 12, VOCABULARY)
    assert torch.equal(padded(ids).logits, plain(ids).logits)
    loss_of(padded, ids).backward()
    loss_of(plain, ids).backward()
    assert padded.output_weight.grad[VOCABULARY:].count_nonzero() == 0
    torch.testing.assert_close(padded.output_weight.grad[:VOCABULARY], plain.output_weight.grad)


def test_a_vocabulary_does_not_fit_into_fewer_rows():
    with pytest.raises(ValueError, match="61 tokens does not fit into 60 rows"):
        Decoder(small(), VOCABULARY, 60)


def test_tied_embeddings_are_one_weight_and_stay_so():
    with torch.device("meta"):
        model = Decoder(small(), VOCABULARY)
    model.to_empty(device="cpu")
    randomize(model)
    assert model.output_weight is model.model.embed_tokens.weight
    assert [name for name in model.state_dict() if "lm_head" in name] == []


def test_untied_output_has_weights_of_its_own():
    model = decoder(small(untie_embed=True))
    assert model.output_weight is model.lm_head.weight
    assert model.lm_head.bias is None
    before = model(tokens()).logits
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.testing.assert_close(model(tokens()).logits, 2 * before)


def test_half_precision_weights_do_not_keep_rms_norm_from_its_kernel(monkeypatch):
    """PyTorch's fused kernel wants input and weight of one type; weights that are gathered in half precision are of another."""
    norm = decoder(small(ln_type="rmsnorm")).model.norm.bfloat16()
    types, rms_norm = [], F.rms_norm

    def seen(x, shape, weight, eps):
        types.append((x.dtype, weight.dtype))
        return rms_norm(x, shape, weight, eps)

    monkeypatch.setattr(F, "rms_norm", seen)
    x = torch.randn(3, 32)
    assert torch.equal(norm(x), rms_norm(x, (32,), norm.weight.float(), norm.eps))
    assert types == [(torch.float32, torch.float32)]


@pytest.mark.parametrize("ln_type", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_no_bias_leaves_out_every_bias(ln_type, activation):
    shape = {"ln_type": ln_type, "activation_type": activation, "untie_embed": True}
    assert [name for name, _ in decoder(small(no_bias=True, **shape)).named_parameters() if "bias" in name] == []
    biased = [name for name, _ in decoder(small(**shape)).named_parameters() if "bias" in name]
    linears = 7 if activation == "swiglu" else 6
    norms = 5 if ln_type == "layernorm" else 0
    assert len(biased) == 2 * linears + norms


def test_norm_epsilon_is_used():
    x = torch.full((1, 1, 32), 1e-3) * torch.arange(32)
    one, other = decoder(small(ln_eps=1e-5)).model.norm, decoder(small(ln_eps=1e-1)).model.norm
    assert not torch.allclose(one(x), other(x))
    expected = (x - x.mean()) / (x.var(correction=0) + 0.1).sqrt() * other.weight + other.bias
    torch.testing.assert_close(other(x), expected)


def test_without_positions_only_the_mask_orders_tokens():
    model = decoder(small(positional_embedding={"type": "none"}, num_layers=1))
    assert [name for name in model.state_dict() if "position" in name] == []
    ids = tokens(length=6)
    shuffled = ids[:, [2, 0, 1, 4, 3, 5]]
    torch.testing.assert_close(model(ids).logits[:, -1], model(shuffled).logits[:, -1], atol=1e-5, rtol=1e-5)


def test_rotary_tables_are_the_formula():
    model = decoder(small(positional_embedding=ROPE | {"base": 500.0, "scaling_factor": 4.0, "offset": 3}))
    positions = torch.arange(3, 13, dtype=torch.float64) / 4
    angles = positions[:, None] * 500.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    for cos, signed_sin in (model.model.rotary(10), model.model.rotary(10, torch.arange(10))):
        torch.testing.assert_close(cos[:, 0], angles.cos().repeat(1, 2).float())
        torch.testing.assert_close(signed_sin[:, 0], torch.cat((-angles.sin(), angles.sin()), dim=1).float())


def test_rotary_tables_survive_the_meta_device():
    expected = decoder(llama_shape())
    with torch.device("meta"):
        model = Decoder(llama_shape(), VOCABULARY)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.model.rotary.cos.fill_(float("nan"))
    model.load_state_dict(expected.state_dict())
    model.reset_buffers()
    assert torch.equal(model(tokens()).logits, expected(tokens()).logits)


def test_learned_positions_end_somewhere():
    with pytest.raises(ValueError, match=r"17 tokens is longer than max_seq_len 16"):
        decoder()(tokens(length=17))


@pytest.mark.parametrize(
    "changes", [{}, {"post_ln": True}, {"activation_type": "swiglu", "ln_type": "rmsnorm", "positional_embedding": ROPE}]
)
def test_bfloat16_is_autocasts_business(changes):
    model = decoder(small(**changes))
    ids = tokens()
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits
        loss = loss_of(model, ids)
    loss.backward()
    assert logits.dtype is torch.bfloat16
    assert (logits.float() - exact).norm() / exact.norm() < 0.02
    assert all(parameter.grad.dtype is torch.float32 for parameter in model.parameters())


def test_a_model_cast_to_bfloat16_runs():
    model = decoder(llama_shape())
    exact = model(tokens()).logits
    model.bfloat16()
    for positions in (None, torch.arange(12).expand(3, -1)):
        logits = model(tokens(), position_ids=positions).logits
        assert logits.dtype is torch.bfloat16
        assert (logits.float() - exact).norm() / exact.norm() < 0.05


def test_autocast_casts_the_input_of_the_projections_once():
    attention = Attention(small())
    seen = []
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(1, 4, 32))
    assert {value.dtype for value in seen} == {torch.bfloat16}
    assert len({value.data_ptr() for value in seen}) == 1
