"""IronCore's prepared data: both ways, and the faults that its own files can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironloom.data import ironcore
from ironloom.data.entries import Corpus
from ironloom.data.preparation import Counted, TextEncoder, build_store
from ironloom.data.store import Rows, TokenStore
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError

# As the original declares it.
INDEX = np.dtype([("offset", "u8"), ("length", "u4"), ("type", "U20"), ("group_id", "i8"), ("mask_ranges", "U500")])


class Given:
    """Documents as they are given: ids, and which are trained."""

    fingerprint = tokenizer = "given"

    def __init__(self, vocab_size: int = 100_000, columns: tuple[str, ...] = ()):
        self.vocab_size = vocab_size
        self.columns = columns

    def __call__(self, records: list[Any]) -> Rows:
        columns = {name: [values for _, values in records] for name in self.columns}
        return Rows.of([ids for ids, _ in records], **columns)


def store(cache: Path, documents: list[Any], columns: tuple[str, ...] = ()) -> TokenStore:
    return build_store(Counted(lambda: iter(documents)), Given(columns=columns), json.dumps(documents), cache_dir=cache)


def folder(path: Path, tokens: Any, rows: list[tuple[Any, ...]]) -> Path:
    """A folder as the original writes it."""
    path.mkdir(exist_ok=True)
    tokens.tofile(path / "data.bin")
    np.save(path / "data.idx.npy", np.array(rows, dtype=INDEX))
    return path


@pytest.mark.parametrize(("largest", "size"), [(65_534, 2), (65_535, 4), (99_999, 4)])
def test_the_type_follows_the_largest_id_and_is_found_by_the_size(tmp_path: Path, largest: int, size: int) -> None:
    ironcore.write(store(tmp_path, [([1, largest], 0), ([3], 0)]), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.bin", "data.idx.npy"]
    tokens = np.fromfile(tmp_path / "out" / "data.bin", dtype=f"<u{size}")
    assert tokens.tolist() == [1, largest, 3]
    index = np.load(tmp_path / "out" / "data.idx.npy")
    assert index.dtype == INDEX
    assert index.tolist() == [(0, 2, "pretrain", -1, "[]"), (2, 1, "pretrain", -1, "[]")]
    assert [document.tokens.tolist() for document in ironcore.read(tmp_path / "out")] == [[1, largest], [3]]
    with pytest.raises(ConfigError, match="exists already"):
        ironcore.write(store(tmp_path, [([1], 0)]), tmp_path / "out")


def test_masked_ranges_are_what_is_not_trained(tmp_path: Path) -> None:
    masks = [[0, 0, 1, 1, 0], [1, 1], [0], [1, 0, 1, 0] * 200]  # the last takes more than the 500 characters of the original
    documents = [(list(range(len(mask))), mask) for mask in masks]
    ironcore.write(store(tmp_path, documents, ("trained",)), tmp_path / "out", ("dpo_chosen", "dpo_rejected"))
    index = np.load(tmp_path / "out" / "data.idx.npy")
    assert index["mask_ranges"][:3].tolist() == ["[[0,2],[4,5]]", "[]", "[[0,1]]"]
    assert index["group_id"].tolist() == [0, 0, 1, 1]
    found = list(ironcore.read(tmp_path / "out"))
    assert [[1] * len(document.tokens) if document.trained is None else document.trained.tolist() for document in found] == masks
    assert [(document.type, document.group_id) for document in found][1:3] == [("dpo_rejected", 0), ("dpo_chosen", 1)]


def test_an_entry_that_names_such_a_folder_is_read(tmp_path: Path) -> None:
    ids = np.array([*b"ab", 256, *b"c"], dtype="<u2")
    path = folder(tmp_path / "a", ids, [(0, 3, "pretrain", -1, "[]"), (3, 1, "pretrain", -1, "")])
    (tmp_path / "b.txt").write_text("xyz")
    corpus = Corpus.of([str(path), str(tmp_path / "b.txt")])
    made = build_store(corpus, TextEncoder(Tokenizer.bytes()), corpus.key(), cache_dir=tmp_path)
    assert made.tokens.tolist() == [*b"ab", 256, *b"c", 256, *b"xyz", 256]  # an end token only where there was none
    with pytest.raises(DataError, match="cannot train a tokenizer"):
        list(corpus.texts())
    key = corpus.key()
    folder(path, ids + np.uint16(0), [(0, 4, "pretrain", -1, "[]")])
    assert corpus.key() != key


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", np.array([1, 300], dtype="<u2"), [(0, 2, "pretrain", -1, "[]")])
    corpus = Corpus.of([str(path)])
    with pytest.raises(DataError, match="token id 300 is outside the vocabulary of 257 tokens: the data are from another tokenizer"):
        build_store(corpus, TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 5, "pretrain", -1, "[]"), "8 bytes are neither 2 nor 4 for each of the 5 tokens"),
        ((1, 4, "pretrain", -1, "[]"), "row 0: tokens 1 to 5 of 4"),
        ((0, 4, "other", -1, "[]"), "unknown type 'other'"),
        ((0, 4, "sft", -1, "[[0,5]]"), "the masked range 0 to 5 is not within its 4 tokens"),
        ((0, 4, "sft", -1, "[[0"), "mask_ranges is damaged"),
        ((0, 4, "sft", -1, "[" + "[0,1]," * 100), "mask_ranges is damaged, cut off when it was written"),
        ((0, 4, "sft", -1, "[1]"), "mask_ranges is damaged"),
    ],
)
def test_faults_are_named(tmp_path: Path, row: tuple[Any, ...], message: str) -> None:
    path = folder(tmp_path / "a", np.zeros(4, dtype="<u2"), [row])
    with pytest.raises(DataError, match=message):
        list(ironcore.read(path))


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", np.zeros(4, dtype="<u2"), [(0, 4, "sft", -1, "[[0,1]]")])
    with pytest.raises(DataError, match="document 0 is of type sft with masked tokens: only plain pretraining data"):
        build_store(Corpus.of([str(path)]), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path)
    whole = (path / "data.idx.npy").read_bytes()
    for content in (b"", whole[:50], whole[:-10]):
        (path / "data.idx.npy").write_bytes(content)
        with pytest.raises(DataError, match="not readable as an index"):
            list(ironcore.read(path))
    np.save(path / "data.idx.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected rows with offset, length"):
        list(ironcore.read(path))
