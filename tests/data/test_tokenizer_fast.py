"""Fast tokenization gives the ids of tokenizers or is not used: difficult text, every batch, and what happens when it differs."""

from __future__ import annotations

import logging
import sys
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data import tokenizer_fast
from ironloom.data.corpus import read_documents
from ironloom.data.preparation import Counted, TextEncoder, build, build_store, pool
from ironloom.data.tokenizer import END_TOKEN, Tokenizer
from ironloom.data.tokenizer_fast import FastTokenizer, TokenizersDifferError, difficult_texts
from ironloom.device import num_cores

gigatoken = pytest.importorskip("gigatoken")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(read_documents("python-docs"), 3000)


def flat(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[int], list[int]]:
    encoded = tokenizer.encode_batch(texts)
    return [number for ids in encoded for number in ids], [len(ids) for ids in encoded]


def test_the_ids_are_those_of_tokenizers(trained: Tokenizer) -> None:
    assert trained._fast is not None
    assert Tokenizer.bytes()._fast is not None
    documents = [*difficult_texts(trained._backend), *read_documents("python-docs", max_samples=30), f"a{END_TOKEN}b"]
    for tokenizer in (trained, Tokenizer.bytes()):
        ids, lengths = tokenizer.encode_flat(documents)
        assert (ids.tolist(), lengths.tolist()) == flat(tokenizer, documents)
    assert trained.encode_flat([])[0].shape == (0,)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_any_text_gives_the_same_ids(trained: Tokenizer, texts: list[str]) -> None:
    ids, lengths = trained.encode_flat(texts)
    assert (ids.tolist(), lengths.tolist()) == flat(trained, texts)


def test_difficult_texts_reach_into_every_block() -> None:
    seen = set("".join(difficult_texts(tokenizers.Tokenizer(tokenizers.models.BPE()))))
    assert all(any(chr(start + at) in seen for at in range(16)) for start in range(0, 0x30000, 128) if not 0xD800 <= start < 0xE000)


class Wrong:
    """A tokenizer that goes wrong on texts with a certain letter."""

    letter = "z"

    def __init__(self, right: Any):
        self.right = right

    def encode_batch(self, texts: list[str], parallel: bool | None = None) -> Any:
        return self.right.encode_batch([text.replace(self.letter, "y") for text in texts], parallel=parallel)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_where_it_differs_everything_is_made_anew_without_it(
    tmp_path: Path, trained: Tokenizer, num_workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "_SMALL", 1)
    documents = ["all is well " * 20_000] * 8 + ["zzz " * 60_000] * 3
    expected = build_store(Counted(lambda: iter(documents)), TextEncoder(trained, fast=False), "a", cache_dir=tmp_path)
    tokenizer = Tokenizer(trained._backend, trained._config)
    tokenizer.__dict__["_fast"] = FastTokenizer(Wrong(trained._fast._fast), trained._backend)  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        store = build_store(Counted(lambda: iter(documents)), TextEncoder(tokenizer), "b", cache_dir=tmp_path, num_workers=num_workers)
    assert "gigatoken does not give the ids of tokenizers" in caplog.text
    assert store.fingerprint == expected.fingerprint
    with pytest.raises(TokenizersDifferError):
        tokenizer.encode_flat(["zzz " * 1000])


@pytest.mark.parametrize(("fast", "num_workers", "processes"), [(True, None, 0), (True, 2, 2), (False, None, num_cores())])
def test_no_processes_are_started_for_what_has_threads_unless_asked_for(
    tmp_path: Path, trained: Tokenizer, fast: bool, num_workers: int | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(pool, "_SMALL", 1)
    monkeypatch.setattr(ForkProcess, "start", lambda self, start=ForkProcess.start: (started.append(self), start(self)))
    build_store(Counted(lambda: iter(["all is well"] * 50)), TextEncoder(trained, fast), "a", cache_dir=tmp_path, num_workers=num_workers)
    assert len(started) == (processes if processes > 1 else 0)


@pytest.mark.parametrize(("seconds", "package", "told"), [(-1.0, None, True), (-1.0, gigatoken, False), (60.0, None, False)])
def test_who_waits_hears_of_the_package(
    tmp_path: Path, seconds: float, package: object, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", package)
    monkeypatch.setattr(build, "_LONG", seconds)
    with caplog.at_level(logging.INFO):
        build_store(Counted(lambda: iter(["all is well"])), TextEncoder(Tokenizer.bytes()), "a", cache_dir=tmp_path)
    assert ("pip install 'ironloom[fast]'" in caplog.text) is told


def test_what_it_does_differently_or_not_at_all_is_left_to_tokenizers(monkeypatch: pytest.MonkeyPatch, trained: Tokenizer) -> None:
    real = gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda text: Wrong(real(text)))
    assert FastTokenizer.of(trained._backend) is None
    monkeypatch.undo()
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    assert FastTokenizer.of(words) is None
    assert Tokenizer(words).encode_flat(["a"])[0].tolist() == [0]


def test_without_the_package_tokenizers_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    tokenizer = Tokenizer.bytes()
    assert tokenizer._fast is None
    assert np.array_equal(tokenizer.encode_flat(["ab", "c"])[0], [97, 98, 99])


def test_a_sample_of_every_batch_is_compared(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(FastTokenizer, "compare", lambda self, texts, ids, lengths: compared.extend(texts))
    texts = ["one " * 5000, "two " * 5000, "three"]
    trained.encode_flat(texts)
    (sample,) = compared
    assert len(sample) == tokenizer_fast._SAMPLE
    assert sample in texts[1]
