"""Perplexity is the mean over every token that counts, each scored once, with the context that was asked for."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from ironloom.data.store import prepare
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError
from ironloom.evaluation.perplexity import perplexity
from ironloom.models.decoder import Decoder
from models.twins import VOCABULARY, gpt2_twins, llama_twins, randomize, small, tokens

LENGTHS = (5, 40, 1, 16, 17, 22, 2)


def store_of(lengths=LENGTHS, trained=None, weights=None):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = tokens(1, int(offsets[-1]), seed=3)[0].numpy().astype("<u2")
    return SimpleNamespace(tokens=ids, offsets=offsets, num_documents=len(lengths), trained=trained, weights=weights, folder="a store")


@torch.no_grad()
def losses(model, store, window, stride):
    """The loss of each token by itself; NaN for those that begin a document."""
    found = np.full(len(store.tokens), np.nan)
    for start, stop in zip(store.offsets, store.offsets[1:], strict=False):
        for place in range(start + 1, stop):
            end = start + window + max(0, math.ceil((place + 1 - start - window) / stride)) * stride
            begin = max(start, min(end, stop) - window)
            ids = torch.tensor(store.tokens[begin:place].astype(np.int64))[None]
            found[place] = -model(input_ids=ids).logits[0, -1].log_softmax(-1)[store.tokens[place]]
    return found


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 1), (10, 9), (16, 5)])
def test_every_token_is_scored_once_in_its_window(window, stride):
    for model in gpt2_twins():
        store = store_of()
        expected = losses(model, store, window, stride)
        for batch_size in (1, 4):
            found = perplexity(model, store, batch_size=batch_size, max_length=window, stride=stride)
            assert found.loss == pytest.approx(np.nanmean(expected), rel=1e-5)
            assert (found.tokens, found.weight, found.documents) == (sum(LENGTHS) - len(LENGTHS), sum(LENGTHS) - len(LENGTHS), 6)
            assert found.perplexity == math.exp(found.loss)


def test_the_loss_of_a_document_is_that_of_transformers():
    ours, theirs = llama_twins()
    store = store_of([13])
    ids = torch.tensor(store.tokens.astype(np.int64))[None]
    expected = float(theirs(input_ids=ids, labels=ids).loss.detach())
    assert perplexity(ours, store, batch_size=1).loss == pytest.approx(expected, rel=1e-5)


def test_only_what_the_model_has_to_produce_counts():
    model, _ = gpt2_twins()
    store = store_of()
    expected = losses(model, store, 16, 8)
    generator = np.random.default_rng(0)
    store.trained = (generator.random(len(store.tokens)) < 0.4).astype("u1")
    known = ~np.isnan(expected)
    found = perplexity(model, store, batch_size=3)
    assert found.loss == pytest.approx(np.average(expected[known], weights=store.trained[known]), rel=1e-5)
    assert found.tokens == store.trained[known].sum()
    store.weights = generator.random(len(store.tokens)).astype("f4")
    found = perplexity(model, store, batch_size=3)
    assert found.loss == pytest.approx(np.average(expected[known], weights=(store.trained * store.weights)[known]), rel=1e-5)
    store.trained[:] = 0
    with pytest.raises(DataError, match="no token to score"):
        perplexity(model, store, batch_size=3)


@pytest.mark.parametrize("options", [{"max_length": 17}, {"max_length": 1}, {"stride": 16}, {"stride": 0}, {"max_length": 8, "stride": 8}])
def test_windows_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match="expected at least"):
        perplexity(gpt2_twins()[0], store_of(), batch_size=1, **options)


def test_the_command(ironloom, tmp_path, monkeypatch):
    monkeypatch.setattr("rich.console.Console", lambda: Console(width=200))
    model = Decoder(small(), 257, eos_token_id=256)
    randomize(model)
    model.save_pretrained(tmp_path / "model")
    tokenizer = Tokenizer.bytes()
    tokenizer.save_pretrained(tmp_path / "model")
    store = prepare(lambda: iter(["One text", "Another text that is longer than the model reads", "three"]), tokenizer, "key", tmp_path)
    result = ironloom("eval", tmp_path / "model", "--data", store.folder, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)["perplexity"][str(store.folder)]
    assert found["loss"] == pytest.approx(np.nanmean(losses(model, store, 16, 8)), rel=1e-5)
    assert (found["tokens"], found["documents"]) == (store.num_tokens - 3, 3)
    table = ironloom("eval", tmp_path / "model", "--data", store.folder).out
    assert f"{found['loss']:.4f}" in table
    first = json.loads(ironloom("eval", tmp_path / "model", "--data", store.folder, "--limit", 1, "--json").out)
    assert first["perplexity"][str(store.folder)]["tokens"] == 8


def test_stores_of_another_tokenizer_are_refused(ironloom, tmp_path):
    Decoder(small(), VOCABULARY).save_pretrained(tmp_path / "model")
    Tokenizer.bytes().save_pretrained(tmp_path / "model")
    other = Tokenizer.train(["some text"], 260)
    store = prepare(lambda: iter(["One text"]), other, "key", tmp_path)
    result = ironloom("eval", tmp_path / "model", "--data", store.folder)
    assert (result.code, "another tokenizer" in result.err) == (3, True)
    assert ironloom("eval", tmp_path / "model", "--data", tmp_path / "none").code == 3
    assert ironloom("eval", tmp_path / "model").code == 2
