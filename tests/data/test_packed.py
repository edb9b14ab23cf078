"""Rows of several documents: each document whole and once, its labels its own, its positions from 0."""

from __future__ import annotations

import pickle
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ironloom.data import packing
from ironloom.data.isolation import Isolation
from ironloom.data.loader import Loader
from ironloom.data.mixture import Mixture
from ironloom.data.packed import PackedRows
from ironloom.data.packing_plan import PackingPlan, packing_plan
from ironloom.data.rows import TrainedRows, collate_rows
from ironloom.errors import DataError
from stores import store_of

SHAPES = st.lists(st.integers(1, 25), min_size=1, max_size=25).filter(lambda lengths: max(lengths) > 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Documents in which no token occurs twice."""
    return [[30 * number + place for place in range(length)] for number, length in enumerate(lengths)]


def pairs(document: list[int], row_length: int, keep_last: bool, eod_mask_loss: bool) -> list[tuple[tuple[int, int, int], ...]]:
    """The pieces of a document as (token, label, position), from the definition."""
    last = len(document) - 1
    places = range(last + 1 if keep_last and last % row_length else last)
    labels = [document[at + 1] if at < last - eod_mask_loss else -100 for at in places]
    every = [(document[at], labels[at], at % row_length) for at in places] if last else []
    return [tuple(every[at : at + row_length]) for at in range(0, len(every), row_length)]


def pieces_of(sample: dict[str, Tensor]) -> list[tuple[tuple[int, int, int], ...]]:
    """A row, parted where positions begin again."""
    found: list[tuple[tuple[int, int, int], ...]] = []
    for each in zip(*(sample[name].tolist() for name in ("input_ids", "shift_labels", "position_ids")), strict=True):
        found = [*found, (each,)] if each[2] == 0 else [*found[:-1], (*found[-1], each)]
    return found


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 20), st.booleans(), st.booleans())
def test_rows_are_documents(cache: Path, lengths: list[int], row_length: int, keep_last: bool, eod_mask_loss: bool) -> None:
    documents = documents_of(lengths)
    store = store_of(cache, documents)
    plan = packing_plan(store, 0, len(lengths), row_length, keep_last=keep_last, cache_dir=cache)
    rows = PackedRows(store, plan, isolation=Isolation(True, not keep_last, eod_mask_loss))
    found = sorted(piece for index in range(len(rows)) for piece in pieces_of(rows[index]))
    assert found == sorted(piece for document in documents for piece in pairs(document, row_length, keep_last, eod_mask_loss))
    assert plan.num_tokens == sum(map(len, found))
    many = rows.__getitems__([0, len(rows) - 1, 0])
    for one, place in zip(many, (0, -1, 0), strict=True):
        assert all(torch.equal(one[name], values) for name, values in rows[place].items())
    indices = np.array([len(rows) - 1, 0, 0])
    assert rows.lengths(indices).tolist() == [len(rows[index]["input_ids"]) for index in indices.tolist()]
    assert rows.lengths(np.array([], dtype=np.int64)).tolist() == []
    assert rows.mean_length == Fraction(plan.num_tokens, len(rows))


def test_packed_conversations_are_the_same_samples_as_alone(cache: Path) -> None:
    """Nothing is lost, doubled or trained that is not trained alone; no answer is trained on the prompt of another."""
    lengths = np.random.default_rng(0).integers(2, 33, 200).tolist()
    documents = documents_of(lengths)
    store = store_of(cache, documents, [[(number + place) % 3 > 0 for place in range(length)] for number, length in enumerate(lengths)])
    alone = TrainedRows(store, 0, 200)
    rows = PackedRows(store, packing_plan(store, 0, 200, 32, cache_dir=cache))
    expected = sorted(
        tuple(zip(one["input_ids"].tolist(), one["shift_labels"].tolist(), range(32), strict=False))
        for one in (alone[at] for at in range(200))
    )
    assert sorted(piece for row in rows.__getitems__(list(range(len(rows)))) for piece in pieces_of(row)) == expected
    assert len(rows) < 115


def test_a_batch_is_filled_up_with_a_document_of_its_own(cache: Path) -> None:
    store = store_of(cache, [[1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11, 12, 13]])
    rows = PackedRows(store, packing_plan(store, 0, 3, 7, cache_dir=cache))
    batch = collate_rows(rows.__getitems__([0, 1]), pad_token_id=99, length=7)
    assert batch["input_ids"].tolist() == [[1, 2, 8, 9, 10, 11, 12], [4, 5, 6, 99, 99, 99, 99]]
    assert batch["shift_labels"].tolist() == [[2, 3, 9, 10, 11, 12, 13], [5, 6, 7, -100, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 4], [0, 1, 2, 0, 1, 2, 3]]
    assert set(collate_rows([rows[1]], length=7)) == {"input_ids", "shift_labels"}  # one document: causal attention says it all
    seen = collate_rows([rows[1], rows[0]], reset_attention_mask=False)
    assert torch.equal(seen["attention_mask"], torch.ones(2, 7, dtype=torch.int64))
    assert seen["position_ids"][1].tolist() == [0, 1, 0, 1, 2, 3, 4]
    masked = collate_rows([rows[1], rows[0]], reset_position_ids=False)
    assert set(masked) == {"input_ids", "shift_labels", "attention_mask"}
    places = torch.arange(7)
    for mask, number in zip(masked["attention_mask"], ([0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]), strict=True):
        number = torch.tensor(number)
        assert torch.equal(mask[0], (number[:, None] == number) & (places[:, None] >= places))


def test_a_plan_is_made_once_and_anew_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, documents_of([5, 9, 1, 14, 3]))
    plan = packing_plan(store, 0, 5, 8, cache_dir=tmp_path)
    assert (
        str(plan) == "5 documents in 4 rows of 8 tokens, 84.4% filled, 5 tokens of padding, "
        "1 longer than a row and cut, 1 of a single token left out"
    )
    content = {path.name: path.read_bytes() for path in plan.folder.glob("*.*n")}
    assert len(content) == 4
    with monkeypatch.context() as patch:
        patch.setattr(packing, "windows", lambda *_: pytest.fail("made again"))
        assert packing_plan(store, 0, 5, 8, cache_dir=tmp_path).folder == plan.folder
    others = {packing_plan(store, *where, cache_dir=tmp_path).folder for where in ((0, 4, 8), (1, 5, 8), (0, 5, 9))}
    assert len({*others, plan.folder, packing_plan(store, 0, 5, 8, keep_last=True, cache_dir=tmp_path).folder}) == 5
    for name, data in content.items():
        for damaged in (data[:-1], bytes([data[0] ^ 1]) + data[1:], b""):
            (plan.folder / name).write_bytes(damaged)
            caplog.clear()
            packing_plan(store, 0, 5, 8, cache_dir=tmp_path)
            assert "made anew" in caplog.text
            assert {path.name: path.read_bytes() for path in plan.folder.glob("*.*n")} == content
        (plan.folder / name).unlink()
        packing_plan(store, 0, 5, 8, cache_dir=tmp_path)
    with pytest.raises(DataError, match="1 documents give no row"):
        packing_plan(store, 2, 3, 8, cache_dir=tmp_path)
    assert len(list((tmp_path / "packing").iterdir())) == 5, "nothing half-made is left behind"


def test_packed_rows_travel_as_names(cache: Path) -> None:
    store = store_of(cache, documents_of([20] * 300))
    rows = PackedRows(store, packing_plan(store, 0, 300, 64, cache_dir=cache), 50, Isolation(True, True, eod_mask_loss=True))
    packed = pickle.dumps(rows)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert len(again) == len(rows) == 50
    assert all(torch.equal(again[-1][name], values) for name, values in rows[49].items())
    for index in (50, -51):
        with pytest.raises(IndexError):
            rows[index]


def test_packed_rows_come_fast_from_anywhere(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, 20_000).astype(np.int64) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    store: Any = SimpleNamespace(tokens=np.zeros(offsets[-1], dtype=np.uint16), offsets=offsets, trained=None, weights=None, fingerprint="")
    rows = PackedRows(store, packing_plan(store, 0, 20_000, 1024, cache_dir=tmp_path))
    loader = Loader(rows, batch_size=16, collate=lambda samples: collate_rows(samples, length=1024))
    rates = []
    for epoch in range(4):
        start = time.perf_counter()
        num_tokens = sum(batch["input_ids"].numel() for batch in loader.iterate(epoch))
        rates.append(num_tokens / (time.perf_counter() - start))
    print(f"{max(rates):.3g} tokens/s")
    start = time.perf_counter()
    next(iter(loader.iterate(3, start=len(loader) - 1)))
    assert time.perf_counter() - start < 1
    assert isinstance(rows.plan, PackingPlan) and rows.plan.fill > 0.98


def test_packed_rows_can_be_mixed(cache: Path) -> None:
    """Shares are of tokens: the mean length of a source's rows is known without reading them."""
    lengths = np.random.default_rng(3).integers(2, 40, 150).tolist()
    store = store_of(cache, documents_of(lengths))
    parts = {
        name: PackedRows(store, packing_plan(store, *where, 32, cache_dir=cache)) for name, where in (("a", (0, 50)), ("b", (50, 150)))
    }
    mixture = Mixture(parts, {"a": 3.0, "b": 1.0})
    loader = Loader(mixture, batch_size=8, collate=lambda samples: collate_rows(samples, length=32), seed=1)
    seen = torch.cat([batch["input_ids"] for batch in loader])
    assert seen.shape == (len(mixture), 32)
    assert loader.sources is not None
    counts = loader.sources(0, 0, len(mixture))
    assert sum(number for number, _ in counts.values()) == len(mixture)
    tokens = {name: number or 0 for name, (_, number) in counts.items()}
    assert tokens["a"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.02)
    everything = np.arange(len(parts["b"]))
    assert int(parts["b"].lengths(everything).sum()) == parts["b"].plan.num_tokens == parts["b"].mean_length * len(parts["b"])
