"""Tokenizers: exact round trips, the same ids in transformers, and clear words when one cannot be had."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data.corpus import read_documents
from ironloom.data.tokenizer import END_TOKEN, Tokenizer
from ironloom.data.tokenizer_types import make_tokenizer
from ironloom.errors import ConfigError, DataError

TEXT = "def f(x):\n\treturn x ** 2  # \u00e4\u00f6\u00fc \u4e2d\u6587 \U0001f600\r\n\x00 end"


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(read_documents("python-docs"), 1000)


def never() -> Any:
    pytest.fail("read the documents")


def test_training_gives_a_tokenizer_of_that_size_and_the_same_every_time(trained: Tokenizer) -> None:
    assert trained.vocab_size == 1000
    assert Tokenizer.train(read_documents("python-docs"), 1000).fingerprint == trained.fingerprint
    assert Tokenizer.train(read_documents("python-docs"), 999).fingerprint != trained.fingerprint
    text = next(read_documents("python-docs"))
    assert len(trained.encode(text)) < len(text) / 2
    assert trained.decode([trained.eos_token_id]) == END_TOKEN  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["trained", "bytes"])
@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_comes_back(kind: str, trained: Tokenizer, text: str) -> None:
    tokenizer = trained if kind == "trained" else Tokenizer.bytes()
    for whole in (text, TEXT):
        ids = tokenizer.encode(whole)
        assert tokenizer.decode(ids) == whole
        assert all(0 <= number < tokenizer.vocab_size for number in ids)
        assert tokenizer.encode_batch([whole, "a"]) == [ids, tokenizer.encode("a")]


def test_bytes_are_their_own_ids() -> None:
    tokenizer = Tokenizer.bytes()
    assert tokenizer.encode(TEXT) == list(TEXT.encode())
    assert (tokenizer.vocab_size, tokenizer.eos_token_id, tokenizer.pad_token_id) == (257, 256, 256)


def test_special_tokens_are_skipped_when_asked_to() -> None:
    tokenizer = Tokenizer.bytes()
    assert tokenizer.decode([65, 256, 300], skip_special_tokens=True) == "A"
    assert tokenizer.decode([65, 256]) == "A" + END_TOKEN


@pytest.mark.parametrize("kind", ["trained", "bytes"])
@pytest.mark.parametrize("model_type", [None, "gpt2", "llama"])
def test_transformers_loads_what_is_saved(tmp_path: Path, trained: Tokenizer, kind: str, model_type: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained if kind == "trained" else Tokenizer.bytes()
    tokenizer.save_pretrained(tmp_path)
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "The import statement", " leading", f"a{END_TOKEN}b"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT
    assert theirs.eos_token_id == tokenizer.eos_token_id
    assert theirs.pad_token_id == tokenizer.pad_token_id
    assert len(theirs) == tokenizer.vocab_size


def test_what_is_saved_is_loaded_with_all_that_belongs_to_it(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    (tmp_path / "one" / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77}))
    again = Tokenizer.load(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    again.save_pretrained(tmp_path / "one")  # in place
    third = Tokenizer.load(tmp_path / "two" / "tokenizer.json")
    assert third.fingerprint == again.fingerprint == trained.fingerprint
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "two" / "tokenizer_config.json").read_text())["model_max_length"] == 77
    assert pickle.loads(pickle.dumps(again)).fingerprint == trained.fingerprint


def test_the_end_token_is_found_where_no_file_names_it(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert Tokenizer.load(tmp_path).eos_token_id == trained.eos_token_id
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "a"}}))
    assert Tokenizer.load(tmp_path).eos_token_id == trained.encode("a")[0]


def test_truncation_and_padding_of_a_file_do_not_touch_the_corpus(tmp_path: Path) -> None:
    import tokenizers

    Tokenizer.bytes().save_pretrained(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode_batch(["abcdef", "a"]) == [list(b"abcdef"), list(b"a")]


def test_the_older_pair_of_files_is_read(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save_pretrained(tmp_path / "new")
    model = json.loads((tmp_path / "new" / "tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"]))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    assert Tokenizer.load(old).encode(TEXT) == trained.encode(TEXT)
    assert Tokenizer.load(old).eos_token_id == trained.eos_token_id


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json in it"),
        ({"tokenizer.json": "{"}, "tokenizer.json: not a readable tokenizer"),
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json: not readable as JSON"),
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json: expected a JSON object"),
    ],
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    if files and "tokenizer.json" not in files:
        Tokenizer.bytes().save_pretrained(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


def test_without_a_network_the_message_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"tokenizer 'gpt2': .*cannot be loaded.*vocab_name_or_path: null.*tokenizer_type: byte"):
        Tokenizer.load("gpt2")
    for path in ("/no/such", "./no", "no/such/folder", "no.json"):
        with pytest.raises(DataError, match="no such file or folder"):
            Tokenizer.load(path)


def test_the_types_of_a_configuration(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save_pretrained(tmp_path)
    for kind in ("gpt2", "bbpe", "llama"):
        assert make_tokenizer(kind, str(tmp_path), 5, never).fingerprint == trained.fingerprint
    assert make_tokenizer("byte", "gpt2", 5, never).vocab_size == 257
    assert make_tokenizer("bbpe", None, 300, lambda: read_documents("python-docs", max_samples=5)).vocab_size == 300
    with pytest.raises(DataError, match="'gpt2'"):
        make_tokenizer("gpt2", None, 5, never)
    with pytest.raises(ConfigError, match="a llama tokenizer needs"):
        make_tokenizer("llama", None, 5, never)
    with pytest.raises(ConfigError, match=r"unknown type 'bpe' \(did you mean 'bbpe'"):
        make_tokenizer("bpe", None, 5, never)


def test_training_refuses_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size: .* at least 257 .*found 256"):
        Tokenizer.train(["a"], 256)
    with pytest.raises(DataError, match="no text to train"):
        Tokenizer.train([], 300)


def test_collators_of_transformers_pad_with_it():
    import torch
    from transformers import DataCollatorForLanguageModeling

    tokenizer = Tokenizer.train(["the quick brown fox"] * 4, 300)
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}]
    batch = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False, return_tensors="pt")(rows)
    end = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, end, end]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert tokenizer.pad(rows, pad_to_multiple_of=4)["input_ids"].shape == (2, 4)
    same = tokenizer.pad([{"x": torch.tensor([1.5, 2.5])}, {"x": torch.tensor([3.5, 4.5])}])
    assert same["x"].tolist() == [[1.5, 2.5], [3.5, 4.5]]
    with pytest.raises(ValueError, match="'x' differs in length"):
        tokenizer.pad([{"x": [1]}, {"x": [1, 2]}])
