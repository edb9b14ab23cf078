"""How fast text becomes tokens, and tokens samples. Run it on an idle machine:

    python benchmarks/data.py

Tokenizing: the standard library's sources with a byte-level BPE of 32,000 tokens, in turn by ``encode_batch`` of
``tokenizers`` and by what ``data prepare`` uses. Loading: random batches of 1,024-token samples of one store, in one
process; and the time of one sample anywhere in it, without the pages being in the process yet. Packing: batches of 1,024-token
rows of short and long documents; and the plan of a million of them. Medians of five.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from ironloom.data import PackedRows, TokenBlocks, Tokenizer, collate_blocks, collate_rows, prepare, read_documents
from ironloom.data.isolation import APART, TOGETHER
from ironloom.data.packing import windows
from ironloom.data.packing_plan import packing_plan

ROUNDS = 5


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def tokenizing(number: int | None = None) -> None:
    documents = list(itertools.islice(read_documents("python-stdlib"), number))
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    tokenizer = Tokenizer.train(documents, 32_000)
    tokenizer.encode_flat(documents[:10])  # loads what it loads once
    found: dict[str, list[float]] = {"tokenizers encode_batch": [], "ironloom encode_flat": []}
    for _ in range(ROUNDS):
        found["tokenizers encode_batch"].append(megabytes / seconds(lambda: tokenizer.encode_batch(documents)))
        found["ironloom encode_flat"].append(megabytes / seconds(lambda: tokenizer.encode_flat(documents)))
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):.1f} MB/s")
    slow, fast = (statistics.median(rates) for rates in found.values())
    print(f"  {fast / slow:.1f} times, on {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as folder:
        rate = megabytes * 8 / seconds(lambda: prepare(lambda: iter(documents * 8), tokenizer, "text", folder))
        print(f"prepare: {rate:.1f} MB/s")


def loading(copies: int = 100) -> None:
    length, rows = 1024, 64
    with tempfile.TemporaryDirectory() as folder:
        text = random.Random(0).randbytes(1 << 20).hex()
        store = prepare(lambda: (text for _ in range(copies)), Tokenizer.bytes(), "loading", folder)
        blocks = TokenBlocks(store, 0, store.num_tokens, length)
        order = random.Random(1).sample(range(len(blocks)), 200 * rows)
        batches = [order[start : start + rows] for start in range(0, len(order), rows)]

        def read() -> None:
            for batch in batches:
                blocks.__getitems__(batch)

        rates = [len(order) * length / seconds(read) for _ in range(ROUNDS)]
        print(f"loading: {statistics.median(rates) / 1e6:.0f} million tokens/s")

        def seek(place: int) -> object:
            return TokenBlocks(type(store)(store.folder), 0, store.num_tokens, length)[place]

        times = [seconds(lambda place=place: seek(place)) for place in order[:200]]
        print(f"opening the store and seeking: median {statistics.median(times) * 1e3:.2f} ms, longest {max(times) * 1e3:.2f} ms")


def packing(number: int = 1_000_000) -> None:
    length, rows = 1024, 16
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, number).astype(np.int64) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = [seconds(lambda: list(windows(offsets, 0, len(lengths), length, False))) for _ in range(ROUNDS)]
    print(f"packing plan of {number:,} documents: {statistics.median(times):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(lambda: ("x" * (number - 1) for number in lengths[:40_000].tolist()), Tokenizer.bytes(), "packing", folder)
        packed = PackedRows(store, packing_plan(store, 0, store.num_documents, length, cache_dir=folder))
        together, apart = (TokenBlocks(store, 0, store.num_tokens, length, isolation) for isolation in (TOGETHER, APART))
        order = random.Random(1).sample(range(len(packed) - 1), 200 * rows)
        batches = [order[start : start + rows] for start in range(0, len(order), rows)]
        ways: dict[str, Callable[[list[int]], object]] = {
            "concat": lambda batch: collate_blocks(together.__getitems__(batch)),
            "concat, kept apart": lambda batch: collate_blocks(apart.__getitems__(batch)),
            f"best fit ({packed.plan.fill:.1%} filled)": lambda batch: collate_rows(packed.__getitems__(batch), length=length),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, read in ways.items():
                rates[name].append(len(order) * length / seconds(lambda read=read: [read(batch) for batch in batches]))
        for name, found in rates.items():
            print(f"batches, {name}: {statistics.median(found) / 1e6:.0f} million tokens/s")


if __name__ == "__main__":
    tokenizing()
    loading()
    packing()
