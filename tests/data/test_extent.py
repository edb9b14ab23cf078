"""How far the preparation has come is told in bytes of the files, and only where that can be known."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ironloom.data.entries import Corpus
from ironloom.data.preparation import TextEncoder, build_store, pool
from ironloom.data.tokenizer import Tokenizer

LINES = "".join(json.dumps({"other": "x" * (number % 300), "text": "words " * 60}) + "\n" for number in range(12_000)).encode()


def fractions(datasets: list[Any], cache: Path) -> list[float | None]:
    found: list[float | None] = []
    corpus = Corpus.of(datasets)
    build_store(
        corpus,
        TextEncoder(Tokenizer.bytes()),
        corpus.key(),
        cache_dir=cache,
        num_workers=1,
        progress=lambda done, what, fraction=None: found.append(fraction),
    )
    return found


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_share_grows_with_the_records_to_the_whole(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_SMALL", 1)  # what is less is read before anything is done
    names = [tmp_path / f"{name}.jsonl{'' if pack is bytes else '.gz'}" for name in "ab"]
    for name in names:
        name.write_bytes(pack(LINES))
    found = fractions([str(name) for name in names], tmp_path / "cache")
    assert len(found) > 8
    assert found[-1] == 1.0
    even = [(number + 1) / len(found) for number in range(len(found))]
    assert found == pytest.approx(even, abs=0.2 if pack is gzip.compress else 0.06)
    assert found == sorted(found)  # type: ignore[type-var]


def test_what_cannot_be_known_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES[: LINES.index(b"\n") + 1] * 3)
    entry = str(tmp_path / "a.jsonl")
    assert fractions([entry], tmp_path / "cache") == [1.0]
    assert fractions([{"source": entry, "max_samples": 2}], tmp_path / "cache") == [None]
    assert fractions([entry, "python-docs"], tmp_path / "cache")[0] is None
