"""The benchmark of the data runs; what it tells of small amounts is no speed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "benchmarks" / "data.py"


@pytest.mark.parametrize(
    ("part", "size", "told"),
    [
        ("tokenizing", 20, ("ironloom encode_flat: ", "prepare: ")),
        ("loading", 8, ("million tokens/s", "opening the store and seeking: ")),
        ("packing", 40_000, ("packing plan of 40,000 documents: ", "batches, concat, kept apart: ", "batches, best fit (")),
    ],
)
def test_the_benchmark_of_the_data(part: str, size: int, told: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    functions = runpy.run_path(str(DATA))
    functions[part].__globals__["ROUNDS"] = 1
    functions[part](size)
    out = capsys.readouterr().out
    assert all(words in out for words in told), out
