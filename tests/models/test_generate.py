"""Generated tokens are the right ones, repeat with the seed, and disturb nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import transformers

from ironloom.models.attention import attend
from ironloom.models.generate import continue_prompts, generate
from ironloom.models.sampling import Sampling
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


# Batches, the cache, and what the library that everybody uses draws.

PROMPTS = [[5, 9, 2, 33, 8, 1, 7], [3], [60, 4, 4, 12], [11, 20]]


def free(**changes):
    """A decoder that may write longer texts."""
    return decoder(small(max_seq_len=64, **changes))


def shapes():
    rope = {"type": "rope", "base": 5000.0, "offset": 1}
    return {
        "learned positions": free(),
        "rotary, grouped": free(num_attention_groups=2, positional_embedding=rope),
        "no positions, post-norm": free(positional_embedding={"type": "none"}, post_ln=True),
        "window in one layer": free(positional_embedding=rope, sliding_window=3, sliding_window_layers=[1]),
    }


@pytest.mark.parametrize("shape", list(shapes()))
@pytest.mark.parametrize("sampling", [Sampling(repetition_penalty=1.3), Sampling(1.0, top_k=30)])
def test_what_is_remembered_changes_no_token(shape, sampling):
    model = shapes()[shape]
    options = {"max_new_tokens": 30, "seeds": [7, 8, 9, 7]}
    together = continue_prompts(model, PROMPTS, sampling, **options)
    assert together == continue_prompts(model, PROMPTS, sampling, use_cache=False, **options)
    for prompt, seed, expected in zip(PROMPTS, options["seeds"], together, strict=True):
        assert continue_prompts(model, [prompt], sampling, max_new_tokens=30, seeds=[seed]) == [expected]
    assert len({tuple(text) for text in together}) >= 3


def test_each_token_is_read_once():
    model, read = free(), []
    model.model.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0].shape[1]))
    generate(model, tokens(length=5), max_new_tokens=4)
    assert read == [5, 1, 1, 1]
    assert all(layer.self_attn.attend is attend for layer in model.model.layers), "training goes on without a cache"


@pytest.mark.parametrize("twins", [llama_twins, gpt2_twins])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_padded_batches_are_those_of_transformers(twins, penalty):
    ours, theirs = twins()
    sampling = Sampling(repetition_penalty=penalty)
    written = continue_prompts(ours, PROMPTS, sampling, max_new_tokens=9, seeds=[0] * 4)
    assert continue_prompts(theirs, PROMPTS, sampling, max_new_tokens=9, seeds=[0] * 4) == written
    for prompt, text in zip(PROMPTS, written, strict=True):
        ids = torch.tensor([prompt])
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "repetition_penalty": penalty}
        assert theirs.generate(ids, max_new_tokens=9, pad_token_id=0, **options)[0].tolist() == prompt + text


@pytest.mark.parametrize("twins", [llama_twins, gpt2_twins])
def test_beyond_the_models_length_a_batch_is_what_its_texts_are_alone(twins):
    for model in twins():
        prompts = [list(range(20)), [3], list(range(7))]
        together = continue_prompts(model, prompts, Sampling(), max_new_tokens=15, seeds=[0] * 3)
        assert together == [continue_prompts(model, [prompt], Sampling(), max_new_tokens=15, seeds=[0])[0] for prompt in prompts]


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 20, "top_p": 0.5}, {"repetition_penalty": 1.5}])
def test_probabilities_are_those_of_transformers(options):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, VOCABULARY, generator=generator) * 3
    ids = torch.randint(VOCABULARY, (50, 12), generator=generator)
    expected = logits
    if "repetition_penalty" in options:
        expected = transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])(ids, expected)
    expected = transformers.TemperatureLogitsWarper(0.7)(ids, expected)
    if "top_k" in options:
        expected = transformers.TopKLogitsWarper(options["top_k"])(ids, expected)
    if "top_p" in options:
        expected = transformers.TopPLogitsWarper(options["top_p"])(ids, expected)
    seen = torch.zeros(50, VOCABULARY, dtype=torch.bool).scatter(1, ids, True) if "repetition_penalty" in options else None
    found = Sampling(0.7, **options).probabilities(logits, seen)
    torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-5, atol=1e-7)


def test_tokens_as_likely_as_the_last_stay():
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert Sampling(1.0, top_k=2).probabilities(scores).count_nonzero() == 3


def test_a_text_may_be_ended_by_who_watches_it():
    model = free()
    whole = continue_prompts(model, PROMPTS, Sampling(1.0), max_new_tokens=12, seeds=[1, 2, 3, 4])
    seen = [[] for _ in PROMPTS]

    def watch(row, text):
        seen[row].append(list(text))
        return len(text) == (3, 20, 1, 5)[row]

    ended = continue_prompts(model, PROMPTS, Sampling(1.0), max_new_tokens=12, seeds=[1, 2, 3, 4], watch=watch)
    assert ended == [text[:length] for text, length in zip(whole, (3, 12, 1, 5), strict=True)]
    assert seen == [[text[: count + 1] for count in range(len(text))] for text in ended]


def test_several_tokens_may_end_a_text():
    model = free()
    whole = continue_prompts(model, PROMPTS[:1], Sampling(1.0), max_new_tokens=12, seeds=[1])[0]
    first, second = sorted({whole.index(token) for token in whole})[2:4]
    ended = continue_prompts(model, PROMPTS[:1], Sampling(1.0), max_new_tokens=12, seeds=[1], end=[whole[second], whole[first]])
    assert ended == [whole[: first + 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seeds": [1]}, "one for each"), ({"prompts": [[1], []], "seeds": [1, 2]}, "at least one token each"), ({"prompts": []}, "prompts")],
)
def test_prompts_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        continue_prompts(decoder(), **({"prompts": PROMPTS, "sampling": Sampling(), "max_new_tokens": 1, "seeds": [0] * 4} | arguments))
    with pytest.raises(ValueError, match="repetition_penalty"):
        Sampling(repetition_penalty=0.0)
