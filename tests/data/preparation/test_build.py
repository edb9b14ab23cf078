"""Building stores: processes, kills and damage do not show in the result; marks, columns and counts do."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironloom.data import preparation
from ironloom.data.preparation import Counted, TextEncoder, build_store, pool
from ironloom.data.store import Rows, TokenStore
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError, ResourceError

DOCUMENTS = [f"{number} word " * (number * 37 % 500) for number in range(1, 600)]


def texts() -> Iterator[str]:
    return iter(DOCUMENTS)


def content(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.folder.iterdir())}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few documents, and processes for every corpus."""
    monkeypatch.setattr(pool, "_SMALL", 1)
    monkeypatch.setattr(preparation.records, "_BATCH_SIZE", 20_000)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """What one process that nobody disturbs writes."""
    return content(build_store(Counted(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path / "one", num_workers=1))


@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_number_of_processes_does_not_show(tmp_path: Path, expected: dict[str, bytes], num_workers: int) -> None:
    store = build_store(Counted(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path, num_workers=num_workers)
    assert content(store) == expected
    assert store.tokens.tolist() == [number for text in DOCUMENTS for number in (*text.encode(), 256)]
    assert set(expected) == {"tokens.bin", "documents.bin", "meta.json"}


def killed_at(cache: Path, documents: int, num_workers: int) -> None:
    """Prepares until so many documents are written, and is killed."""

    def kill(done: int, what: str, fraction: float | None) -> None:
        if done >= documents:
            os.kill(os.getpid(), signal.SIGKILL)

    build_store(Counted(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=cache, num_workers=num_workers, progress=kill)


def run(target: Callable[..., None], *args: Any) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(tmp_path: Path, expected: dict[str, bytes], num_workers: int) -> None:
    for documents in (1, 150, 400, 599):
        assert run(killed_at, tmp_path, documents, num_workers) == -signal.SIGKILL
        assert [path.name.partition(".")[2] for path in (tmp_path / "tokens").iterdir()] == ["partial"]
    read: list[int] = []

    class Reading(Counted):
        def read(self, mark: Any) -> Iterator[tuple[Any, Any]]:
            read.append(mark)
            return super().read(mark)

    store = build_store(Reading(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path, num_workers=num_workers)
    assert content(store) == expected
    assert read == [599]  # nothing was done twice
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [store.folder.name]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_power_cut_leaves_of_the_files_the_result_is_right(tmp_path: Path, expected: dict[str, bytes], seed: int) -> None:
    run(killed_at, tmp_path, 300, 1)
    (partial,) = (tmp_path / "tokens").iterdir()
    generator = random.Random(seed)
    for path in (partial / "journal.jsonl", partial / "store" / "tokens.bin", partial / "store" / "documents.bin"):
        fate = generator.choice(["whole", "cut", "flipped", "longer", "gone"])
        size = path.stat().st_size
        if fate == "cut":
            os.truncate(path, generator.randrange(size))
        elif fate == "flipped":
            damaged = bytearray(path.read_bytes())
            damaged[generator.randrange(size)] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
        elif fate == "longer":
            path.write_bytes(path.read_bytes() + generator.randbytes(100))
        elif fate == "gone":
            path.unlink()
    assert content(build_store(Counted(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path, num_workers=1)) == expected


class Pairs:
    """An encoder with every column: numbers to documents, odd ones dropped."""

    fingerprint = "pairs"
    tokenizer = "none"
    vocab_size = 100
    columns = ("trained", "weights")

    def __call__(self, records: list[int]) -> Rows:
        kept = [number for number in records if number % 2 == 0]
        documents = [[number] * 3 for number in kept]
        counts = {"odd": len(records) - len(kept)}
        return Rows.of(documents, counts, trained=[[0, 1, 1] for _ in kept], weights=[[0.5, 1.0, 2.0] for _ in kept])


def test_columns_and_counts_lie_beside_the_tokens(tmp_path: Path) -> None:
    source = Counted(lambda: iter(range(10)))
    store = build_store(source, Pairs(), "key", cache_dir=tmp_path, num_workers=2, info={"task": "sft"})
    assert store.tokens.tolist() == [number for number in range(0, 10, 2) for _ in range(3)]
    assert store.trained.tolist() == [0, 1, 1] * 5  # type: ignore[union-attr]
    assert store.weights.tolist() == [0.5, 1.0, 2.0] * 5  # type: ignore[union-attr]
    assert (store.counts, store.info, store.vocab_size, store.tokenizer) == ({"odd": 5}, {"task": "sft"}, 100, "none")
    assert store.trained.dtype == np.uint8  # type: ignore[union-attr]
    store.verify()
    other = build_store(source, Pairs(), "key", cache_dir=tmp_path, num_workers=1)
    assert other.folder != store.folder  # info is part of the name
    assert other.fingerprint == store.fingerprint
    with pytest.raises(DataError, match="made with another tokenizer"):
        store.check_tokenizer(Tokenizer.bytes())


class Wrong(Pairs):
    def __call__(self, records: list[int]) -> Rows:
        if records == [1]:
            raise DataError("line 1 is wrong")
        if records == [2]:
            os.kill(os.getpid(), signal.SIGKILL)
        if records == [3]:
            return Rows.of([[1, 100]], trained=[[1, 1]], weights=[[1, 1]])
        if records == [4]:
            return Rows.of([[1, 2]], trained=[[1, 1]])
        return Rows.of([[1], []], trained=[[1], []], weights=[[1], []])


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        (1, DataError, "line 1 is wrong"),
        (2, ResourceError, "ended by SIGKILL; if the system ran out of memory, set num_workers"),
        (3, DataError, "token id 100 is outside the vocabulary of 100 tokens"),
        (4, DataError, "gave no values of 'weights' for 2 tokens"),
        (5, DataError, "a document without any"),
    ],
)
def test_what_goes_wrong_in_a_process_is_told_here(tmp_path: Path, record: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build_store(Counted(lambda: iter([record])), Wrong(), "key", cache_dir=tmp_path, num_workers=2)
    assert list((tmp_path / "tokens").iterdir()) == [] or kind is ResourceError


def test_all_dropped_is_told_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents: 2 odd"):
        build_store(Counted(lambda: iter([1, 3])), Pairs(), "key", cache_dir=tmp_path)


def test_a_damaged_description_is_no_store(tmp_path: Path) -> None:
    store = build_store(Counted(texts), TextEncoder(Tokenizer.bytes()), "key", cache_dir=tmp_path, num_workers=1)
    meta = json.loads((store.folder / "meta.json").read_text())
    for change in ({"num_tokens": 1}, {"files": {}}, {"format": 1}, {"columns": ["trained"]}, {"counts": 1}, {"dtype": "x"}):
        (store.folder / "meta.json").write_text(json.dumps(meta | change))
        with pytest.raises(DataError):
            TokenStore(store.folder)
