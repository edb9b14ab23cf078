"""Looking at stores: every number against the plain way of counting it, however the store is cut into chunks."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironloom.data.inspect import Report
from ironloom.data.inspect import scan as scanning
from ironloom.data.inspect.duplicates import Part, repeated, shared
from ironloom.data.inspect.lengths import lengths_of
from ironloom.data.inspect.report import StoreReport
from ironloom.data.inspect.rows import concatenated, packings
from ironloom.data.inspect.text import Reader, spread, visible
from ironloom.data.store import Rows, TokenStore
from ironloom.data.store_writer import StoreWriter
from ironloom.data.tokenizer import Tokenizer

END = 256


class Anything:
    fingerprint = tokenizer = "any"
    vocab_size = 300

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns


def stored(folder: Path, documents: list[list[int]], trained: list[list[int]] | None = None) -> TokenStore:
    writer = StoreWriter(folder / "store", folder / "journal.jsonl", Anything(() if trained is None else ("trained",)))
    writer.append(Rows.of(documents, **({} if trained is None else {"trained": trained})), None)
    writer.finish({})
    return TokenStore(folder / "store")


def drawn(seed: int, count: int = 200) -> tuple[list[list[int]], list[list[int]]]:
    generator = np.random.default_rng(seed)
    lengths = np.minimum(generator.geometric(0.1, count), 60)
    documents = [generator.integers(250, 300 if length < 3 else 258, length).tolist() for length in lengths]
    return documents, [generator.integers(0, 2, length).tolist() for length in lengths]


@pytest.mark.parametrize("chunk", [1, 17, 100, 1 << 22])
@pytest.mark.parametrize("unit", [1, 2])
def test_a_scan_counts_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, unit: int) -> None:
    monkeypatch.setattr(scanning, "_CHUNK", chunk)
    documents, trained = drawn(0)
    store = stored(tmp_path, documents, trained)
    store.vocab_size = 290  # so that some tokens are outside
    found = scanning.scan(store, unit, END)
    counts = Counter(itertools.chain(*documents))
    assert found.used.tolist() == [counts[token] for token in range(290)]
    wrong = [number for number, document in enumerate(documents) if max(document) >= 290]
    assert (found.outside, found.with_outside) == (sum(counts[token] for token in range(290, 300)), wrong[:10])
    assert found.trained == sum(sum(marks[1:]) for marks in trained)
    without = [number for number, marks in enumerate(trained) if not any(marks[1:])]
    assert (found.untrained, found.without_trained) == (len(without), without[:10])
    assert found.empty == documents.count([END]) > 0
    samples = [tuple(map(tuple, documents[place : place + unit])) for place in range(0, len(documents), unit)]
    flat = [tuple(itertools.chain(*sample)) for sample in samples]
    assert [found.hashes[one] == found.hashes[other] for one, other in itertools.combinations(range(len(flat)), 2)] == [
        flat[one] == flat[other] for one, other in itertools.combinations(range(len(flat)), 2)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_repeated_and_shared_samples_are_those_of_a_dictionary(seed: int) -> None:
    generator = np.random.default_rng(seed)
    here, there = (generator.integers(0, 40, generator.integers(0, 60)).astype(np.uint64) << np.uint64(58) for _ in range(2))
    counts = Counter(here.tolist())
    copies, groups, most = repeated(here)
    assert copies == len(here) - len(counts)
    assert groups == sum(number > 1 for number in counts.values())
    assert [times for _, times in most] == sorted((number for number in counts.values() if number > 1), reverse=True)[:5]
    assert all(counts[int(here[place])] == times and here[place] not in here[:place] for place, times in most)
    number, first = shared(Part("evaluation", "evaluation", 7, here), Part("training", "training", 3, there), np.sort(there))
    expected = [(7 + place, 3 + there.tolist().index(value)) for place, value in enumerate(here.tolist()) if value in there.tolist()]
    assert (number, first) == (len(expected), expected[:5])


@pytest.mark.parametrize("seed", range(5))
def test_lengths_and_their_histogram(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 5 + 900 * seed, 300)
    found = lengths_of(lengths)
    assert (found.min, found.max, found.mean) == (min(lengths), max(lengths), pytest.approx(sum(lengths) / 300))
    assert (found.median, found.p95) == (np.percentile(lengths, 50), np.percentile(lengths, 95))
    for bar in found.histogram:
        assert bar.documents == sum(bar.first <= length <= bar.last for length in lengths)
    assert sum(bar.documents for bar in found.histogram) == 300
    assert found.histogram[0].first <= found.min <= found.histogram[0].last
    assert found.histogram[-1].last == found.max


@pytest.mark.parametrize("seq_length", [1, 7, 16, 64])
def test_packing_as_concat_is_told_as_counted_token_by_token(tmp_path: Path, seq_length: int) -> None:
    documents, _ = drawn(1)
    store = stored(tmp_path, documents)
    none, concat, best = packings(store, 1, seq_length)
    assert (best.kind, best.cut) == ("best_fit", sum(len(document) > seq_length + 1 for document in documents))
    owners = [number for number, document in enumerate(documents) for _ in document]
    rows = (len(owners) - 1) // seq_length
    rows_of = [{place // seq_length for place, owner in enumerate(owners) if owner == number} for number in range(len(documents))]
    assert (concat.rows, concat.cut) == (rows, sum(len(found) > 1 for found in rows_of))
    assert none.fill == pytest.approx(np.mean([min(len(document), seq_length) for document in documents]) / seq_length)
    row = concatenated(store, rows // 2, seq_length, Reader(Tokenizer.bytes()))
    begin = rows // 2 * seq_length
    assert [piece.document for piece in row.pieces for _ in range(piece.tokens)] == owners[begin : begin + seq_length]
    assert all(
        store.tokens[begin] == documents[piece.document][piece.start]
        for piece, begin in zip(row.pieces, itertools.accumulate((piece.tokens for piece in row.pieces[:-1]), initial=begin), strict=True)
    )


def test_long_runs_and_long_documents_are_shown_in_part(tmp_path: Path) -> None:
    text = "word " * 100
    marks = [0] * 200 + [1] * 300 + [1]
    store = stored(tmp_path, [[*text.encode(), END], [97, 98] * 100], [marks, [0, 1] * 100])
    reader = Reader(Tokenizer.bytes())
    sample = reader.sample(store, 0)
    assert [(segment.kind, segment.trained, segment.tokens) for segment in sample.segments] == [
        *[("text", False, 96), ("gap", False, 72), ("text", False, 32)],
        *[("text", True, 96), ("gap", True, 172), ("text", True, 32)],
        ("special", True, 1),
    ]
    assert sample.segments[3].text == text[200:296]
    many = reader.sample(store, 1).segments
    assert (len(many), many[-1].kind, sum(segment.tokens for segment in many)) == (65, "gap", 200)


@pytest.mark.parametrize(("total", "wanted"), [(0, 3), (1, 3), (3, 3), (10, 3), (1000, 7), (5, 0)])
def test_samples_are_spread_evenly(total: int, wanted: int) -> None:
    found = spread(total, wanted)
    assert len(set(found)) == min(total, wanted)
    assert found == sorted(found)
    assert all(0 <= number < total for number in found)


def test_no_character_that_is_shown_is_a_command() -> None:
    everything = "".join(map(chr, [*range(0x3000), 0xFEFF, 0xE0001, 0x1F600]))
    shown = visible(everything)
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert visible("a\tb\x1b\x7f\x9b\u2028\u202e\n\xe9") == "a\\tb\\x1b\\x7f\\x9b\\u2028\\u202e\n\xe9"


def test_the_keys_of_the_json_are_those_that_are_documented() -> None:
    """Others read them: a new one is told in docs/data.md, none goes away."""
    names = {kind: [each.name for each in dataclasses.fields(kind)] for kind in (Report, StoreReport)}
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    keys = ["configuration", "kinds", "seq_length", "stores", "leaks", "broken", "findings"]
    assert names[Report] == keys
    report: dict[str, Any] = Report("c.yaml", ("pretrain",), 8).to_json()
    assert list(report) == ["format", "good", *keys]
    assert [name for name in [*report, *names[StoreReport]] if f"`{name}`" not in text] == []
