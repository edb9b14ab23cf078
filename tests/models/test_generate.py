"""Generated tokens are the right ones, repeat with the seed, and disturb nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ironloom.models.generate import generate
from models.twins import VOCABULARY, decoder, gpt2_twins, llama_twins, small, tokens


@pytest.mark.parametrize("twins", [llama_twins, gpt2_twins])
def test_greedy_text_is_that_of_transformers(twins):
    ours, theirs = twins()
    prompt = tokens(length=4)
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=10, pad_token_id=0)
    assert torch.equal(generate(ours, prompt, max_new_tokens=10), expected)
    assert torch.equal(generate(theirs, prompt, max_new_tokens=10), expected)


def test_samples_repeat_with_their_seed():
    model, prompt = decoder(), tokens()
    first, again, other = (generate(model, prompt, max_new_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tokens_are_drawn_with_their_probabilities():
    model = decoder()
    prompt = tokens(batch=1).expand(20_000, -1)
    drawn = generate(model, prompt, max_new_tokens=1, temperature=0.7, seed=5)[:, -1]
    found = torch.bincount(drawn, minlength=VOCABULARY) / len(drawn)
    expected = (model(prompt[:1]).logits[0, -1] / 0.7).softmax(-1)
    assert (found - expected).abs().max() < 0.015


@pytest.mark.parametrize("limit", [{"top_k": 3}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.9}])
def test_unlikely_tokens_are_left_out(limit):
    model = decoder()
    prompt = tokens(batch=1).expand(4000, -1)
    drawn = generate(model, prompt, max_new_tokens=1, temperature=1.0, **limit)[:, -1].unique()
    probabilities, order = model(prompt[:1]).logits[0, -1].softmax(-1).sort(descending=True)
    if "top_k" in limit:
        probabilities = probabilities[: limit["top_k"]] / probabilities[: limit["top_k"]].sum()
    nucleus = 1 + int((probabilities.cumsum(0) < limit.get("top_p", 2.0)).sum())
    allowed = order[: min(nucleus, len(probabilities))]
    assert sorted(drawn.tolist()) == sorted(allowed.tolist())


def test_the_likeliest_token_always_remains():
    model, prompt = decoder(), tokens()
    greedy = generate(model, prompt, max_new_tokens=5)
    assert torch.equal(generate(model, prompt, max_new_tokens=5, temperature=1.0, top_k=1), greedy)
    assert torch.equal(generate(model, prompt, max_new_tokens=5, temperature=1.0, top_p=1e-6), greedy)


def test_training_is_not_disturbed():
    model = decoder(small(dropout_mlp=0.5))
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    sampled = generate(model, tokens(), max_new_tokens=4, temperature=1.0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(sampled, generate(model.eval(), tokens(), max_new_tokens=4, temperature=1.0))


def test_the_mode_comes_back_after_an_error():
    model = decoder()
    with pytest.raises(IndexError):
        generate(model, tokens() + VOCABULARY, max_new_tokens=1)
    assert all(module.training for module in model.modules())


def test_text_may_outgrow_the_model():
    model = decoder()
    prompt = tokens(batch=1, length=20)
    text = generate(model, prompt, max_new_tokens=3)
    for end in (20, 21, 22):
        assert text[0, end] == model(text[:, end - 16 : end]).logits[0, -1].argmax()
    _, theirs = gpt2_twins()
    assert generate(theirs, prompt, max_new_tokens=3).shape == (1, 23)


def test_texts_end_at_their_end_token():
    model, prompt = decoder(), tokens()
    options = {"max_new_tokens": 8, "temperature": 1.0}
    free = generate(model, prompt, **options)[:, 12:].tolist()
    end = free[0][2]
    assert end != free[0][3]
    ended = generate(model, prompt, eos_token_id=end, **options)[:, 12:].tolist()
    for row, text in zip(ended, free, strict=True):
        stop = text.index(end) if end in text else 8
        assert row == (text[: stop + 1] + [end] * 8)[:8]
    alone = generate(model, prompt[:1], eos_token_id=int(model(prompt).logits[0, -1].argmax()), max_new_tokens=8)
    assert alone.shape == (1, 13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, "at least one token"),
        ({"input_ids": torch.tensor([1, 2])}, "expected prompts"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generate(decoder(), **({"input_ids": tokens(), "max_new_tokens": 1} | options))
