"""Documents that share a row do not see each other in models of ``transformers``, with any of their back ends."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ironloom.models.documents import heed_positions
from models.foreign import LLAMA, QWEN2, VARIANTS, VOCABULARY
from models.packing import apart_from_alone, leaking_tokens, packed
from models.twins import randomize

WINDOW = {"sliding_window": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", VARIANTS["gpt2"][1] | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "llama": ("llama", LLAMA),
    "qwen2": ("qwen2", QWEN2),
    "qwen2, windows in some layers": ("qwen2", QWEN2 | WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "mistral, window": ("mistral", LLAMA | WINDOW),
    "gemma": ("gemma", LLAMA),
}


def made(family: str, back_end: str, dtype: torch.dtype = torch.float32) -> Any:
    """With a cache, as its configuration says by default."""
    kind, values = FAMILIES[family]
    config = AutoConfig.for_model(kind, **values)
    assert config.use_cache
    model = AutoModelForCausalLM.from_config(config, attn_implementation=back_end)
    randomize(model)
    heed_positions(model)
    return model.to(dtype)


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_document_sees_another(family, back_end):
    changed, expected = leaking_tokens(made(family, back_end).eval(), packed(VOCABULARY))
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("back_end", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_have_the_logits_and_gradients_of_each_alone(family, back_end):
    model = made(family, back_end, torch.float64)
    found = apart_from_alone(model, copy.deepcopy(model), packed(VOCABULARY))
    # Norms and the softmax of the eager back end are in float32, whatever the weights are in.
    assert max(found["logits"], found["all"]) < 1e-6, found
    assert max(found.values()) < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])  # which has no such back end
def test_flex_attention(family):
    import torch._dynamo

    torch._dynamo.reset()
    changed, expected = leaking_tokens(made(family, "flex_attention").eval(), packed(VOCABULARY))
    assert torch.equal(changed, expected)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_keeps_documents_apart():
    plain, again = made("llama", "sdpa").train(), made("llama", "sdpa").train()
    again.gradient_checkpointing_enable({"use_reentrant": False})
    for model in (plain, again):
        model(**packed(VOCABULARY)).logits.logsumexp(dim=-1).sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_model_that_keeps_a_cache_would_mix_documents():
    """What the trainer does about it is needed, done once, and leaves alone who asks for a cache."""
    model = made("llama", "sdpa").eval()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    heed_positions(model)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert sum(hooks) == 2  # the model and its backbone, which adapters call without the hooks of the model
    assert model(**packed(VOCABULARY)).past_key_values is None
    assert model(input_ids=packed(VOCABULARY)["input_ids"]).past_key_values is not None
    changed, expected = leaking_tokens(lambda **batch: model(**batch, use_cache=True), packed(VOCABULARY))
    assert (changed & ~expected).any()
