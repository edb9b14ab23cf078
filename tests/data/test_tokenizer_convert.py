"""Tokenizers of other libraries give the ids that those libraries give; special tokens come from a file."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ironloom.data import tokenizer_convert
from ironloom.data.corpus import read_documents
from ironloom.data.tokenizer import END_TOKEN, Tokenizer, byte_alphabet
from ironloom.data.tokenizer_types import make_tokenizer
from ironloom.errors import ConfigError, DataError, ResourceError

DOCUMENTS = [line for text in read_documents("python-docs", max_samples=25) for line in text.split("\n") if line.strip()]
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
CL100K = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""


def never() -> Any:
    pytest.fail("read the documents")


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """The tokens of a BPE by their bytes."""
    trained = Tokenizer.train(DOCUMENTS, 900)
    bytes_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    vocabulary = trained._backend.get_vocab(with_added_tokens=False)
    tokens = sorted((number, token) for token, number in vocabulary.items() if token != END_TOKEN)
    return {bytes(bytes_of[character] for character in token): rank for rank, (_, token) in enumerate(tokens)}


@pytest.mark.parametrize("pattern", [R50K, CL100K])
def test_an_encoding_of_tiktoken_keeps_its_ids(tmp_path: Path, ranks: dict[bytes, int], pattern: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    special = {END_TOKEN: len(ranks) + 1, "<|fim|>": len(ranks) + 5}  # with gaps, as cl100k_base has them
    encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    tokenizer = Tokenizer(tokenizer_convert.converted_encoding(encoding), {"eos_token": END_TOKEN})
    assert (tokenizer.eos_token_id, tokenizer.vocab_size) == (len(ranks) + 1, len(ranks) + 6)
    for text in [*DOCUMENTS, *read_documents("python-stdlib", max_samples=5)]:
        assert tokenizer.encode(text) == encoding.encode_ordinary(text)
    assert tokenizer.encode("a<|fim|>") == [*encoding.encode_ordinary("a"), len(ranks) + 5]
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_an_encoding_that_cannot_be_converted_is_refused(ranks: dict[bytes, int]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding("own", pat_str=R50K, mergeable_ranks=ranks, special_tokens={})
    encoding.encode = lambda text, **options: encoding.encode_ordinary(text.replace("1", "2"))
    with pytest.raises(DataError, match=r"'own' of tiktoken: its form for tokenizers gives other ids for .*use a tokenizer\.json"):
        tokenizer_convert.converted_encoding(encoding)


def test_an_encoding_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    with pytest.raises(DataError, match=r"no encoding 'cl100k' \(one of .*cl100k_base"):
        make_tokenizer("tiktoken", "cl100k", 5, never)

    def unreachable(name: str) -> Any:
        raise ConnectionError("gone")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(DataError, match=r"'cl100k_base' of tiktoken cannot be loaded: ConnectionError: gone .*TIKTOKEN_CACHE_DIR"):
        make_tokenizer("tiktoken", "cl100k_base", 5, never)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a model of sentencepiece and gives its file."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")

    def train(kind: str, **options: Any) -> Path:
        content = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(DOCUMENTS), model_writer=content, vocab_size=600, model_type=kind, minloglevel=3, **options
        )
        path = tmp_path_factory.mktemp("model") / "tokenizer.model"
        path.write_bytes(content.getvalue())
        return path

    return train


LLAMA = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    ("kind", "options"), [("bpe", LLAMA), ("bpe", {}), ("unigram", {"byte_fallback": True, "add_dummy_prefix": False})]
)
def test_a_model_of_sentencepiece_keeps_its_ids(model: Any, kind: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    import sentencepiece

    path = model(kind, **options)
    processor = sentencepiece.SentencePieceProcessor(str(path))
    with caplog.at_level(logging.WARNING):
        tokenizer = make_tokenizer("sentencepiece", str(path.parent), 5, never)
    assert (tokenizer.eos_token_id, tokenizer.vocab_size) == (processor.eos_id(), 600)
    wrong = [text for text in DOCUMENTS if tokenizer.encode(text) != processor.encode(text)]
    if options is LLAMA:
        assert not caplog.records
        assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in DOCUMENTS)
    if kind == "bpe":
        assert wrong == []
    else:  # rulers of equal signs, which Unigram may cut in several equally good ways
        assert len(wrong) < 0.03 * len(DOCUMENTS)
        assert "its form for tokenizers gives other ids for" in caplog.text


def test_what_is_no_model_of_sentencepiece(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(DataError, match=r"no such file or folder \(set vocab_name_or_path to the \.model file"):
        make_tokenizer("sentencepiece", "./none", 5, never)
    with pytest.raises(DataError, match=r"0 files \*\.model"):
        make_tokenizer("sentencepiece", str(tmp_path), 5, never)
    (tmp_path / "a.model").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.model: not a model of sentencepiece"):
        make_tokenizer("sentencepiece", str(tmp_path), 5, never)
    Tokenizer.bytes().save_pretrained(tmp_path)
    assert make_tokenizer("sentencepiece", str(tmp_path), 5, never).vocab_size == 257  # converted already


@pytest.mark.parametrize("package", ["tiktoken", "sentencepiece"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.model").touch()
    with pytest.raises(ResourceError, match=rf'pip install "ironloom\[{package}\]"'):
        make_tokenizer(package, str(tmp_path / "a.model"), 5, never)
    with pytest.raises(ConfigError, match=r"vocab_name_or_path: a .* tokenizer needs"):
        make_tokenizer(package, None, 5, never)


def test_special_tokens_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "special.json"
    file.write_text(json.dumps({"pad_token": "<pad>", "eos_token": END_TOKEN, "additional_special_tokens": ["<a>", "<pad>"]}))
    tokenizer = Tokenizer.bytes().with_special_tokens(file)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.vocab_size) == (256, 257, 259)
    assert tokenizer.encode("x<a>") == [ord("x"), 258]
    assert Tokenizer.bytes().vocab_size == 257
    tokenizer.save_pretrained(tmp_path / "saved")
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (theirs.pad_token_id, theirs("x<a>")["input_ids"]) == (257, [ord("x"), 258])
    for content, message in [
        ("[]", "expected a JSON object"),
        ('{"eos": "a"}', "eos: expected NAME_token"),
        ('{"eos_token": 5}', "found 5"),
        ("{", "JSON"),
    ]:
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            Tokenizer.bytes().with_special_tokens(file)
    with pytest.raises(DataError, match="no such file"):
        Tokenizer.bytes().with_special_tokens(tmp_path / "none.json")
