"""Blocks of tokens: what each holds, how they are cut, and how fast they come."""

from __future__ import annotations

import itertools
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.data.blocks import TokenBlocks, collate_blocks
from ironloom.data.collate import ColumnFilter, default_collate
from ironloom.data.isolation import Isolation
from ironloom.data.loader import Loader
from ironloom.data.splits import split_ranges
from ironloom.data.store import prepare
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError
from stores import store_of

TOKENS = np.arange(100, dtype=np.uint16)


def test_a_block_holds_tokens_and_those_that_follow() -> None:
    blocks = TokenBlocks(TOKENS, 10, 50, 8)
    assert len(blocks) == 4  # 40 tokens: four blocks and the token after each
    sample = blocks[1]
    assert sample["input_ids"].tolist() == list(range(18, 26))
    assert sample["shift_labels"].tolist() == list(range(19, 27))
    assert sample["input_ids"].dtype == sample["shift_labels"].dtype == torch.int64
    assert torch.equal(blocks[-1]["input_ids"], blocks[3]["input_ids"])
    for index in (4, -5):
        with pytest.raises(IndexError):
            blocks[index]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(1, 60))
def test_blocks_cover_the_range_without_a_gap(num_tokens: int, seq_length: int) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint32)
    if num_tokens < seq_length + 1:
        with pytest.raises(DataError):
            TokenBlocks(tokens, 0, num_tokens, seq_length)
        return
    blocks = TokenBlocks(tokens, 0, num_tokens, seq_length)
    labels = torch.cat([blocks[index]["shift_labels"] for index in range(len(blocks))]).tolist()
    assert labels == list(range(1, len(labels) + 1))
    assert num_tokens - 1 - len(labels) < seq_length


def test_reading_many_is_reading_each() -> None:
    blocks = TokenBlocks(TOKENS, 0, 100, 9)
    many = blocks.__getitems__([5, 0, 3])
    batch = collate_blocks(many)
    expected = default_collate([blocks[5], blocks[0], blocks[3]])
    assert batch.keys() == expected.keys() == {"input_ids", "shift_labels"}
    for name, values in expected.items():
        assert torch.equal(batch[name], values)
        assert torch.equal(default_collate(many)[name], values)  # any collator of samples can be used
        assert torch.equal(collate_blocks([blocks[5], blocks[0], blocks[3]])[name], values)
    assert len(many) == 3
    assert [sample["input_ids"][0].item() for sample in many[1:]] == [0, 27]
    assert list(ColumnFilter(default_collate, ["input_ids"])(many)) == ["input_ids"]


def test_too_few_tokens_are_refused_with_their_number() -> None:
    TokenBlocks(TOKENS, 0, 9, 8)
    with pytest.raises(DataError, match=r"8 tokens are less than one sequence: 9 are needed .*shorter sequences, more text"):
        TokenBlocks(TOKENS, 0, 8, 8)
    with pytest.raises(ValueError, match="there are 100"):
        TokenBlocks(TOKENS, 0, 101, 8)


def test_blocks_of_a_store_travel_as_its_name(tmp_path: Path) -> None:
    store = prepare(lambda: iter(["x" * 100_000]), Tokenizer.bytes(), "key", tmp_path)
    blocks = TokenBlocks(store, 5, 50_000, 100)
    packed = pickle.dumps(blocks)
    assert len(packed) < 2000
    again = pickle.loads(packed)
    assert len(again) == len(blocks)
    assert torch.equal(again[7]["input_ids"], blocks[7]["input_ids"])


def by_definition(documents: list[list[int]], start: int, seq_length: int, how: Isolation) -> list[dict[str, list[int]]]:
    """Blocks of documents, token by token."""
    places = [(number, at) for number, document in enumerate(documents) for at in range(len(document))][start:]
    blocks = []
    for begin in range(0, len(places) - seq_length, seq_length):
        block: dict[str, list[int]] = {"input_ids": [], "shift_labels": [], "position_ids": []}
        for (number, at), (next_number, next_at) in itertools.pairwise(places[begin : begin + seq_length + 1]):
            is_hidden = (how.reset_attention_mask and number != next_number) or (
                how.eod_mask_loss and next_at == len(documents[next_number]) - 1
            )
            block["input_ids"].append(documents[number][at])
            block["shift_labels"].append(-100 if is_hidden else documents[next_number][next_at])
            begun = block["position_ids"] and at > 0
            block["position_ids"].append(block["position_ids"][-1] + 1 if begun else 0)
        blocks.append(block)
    return blocks


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 5), st.integers(1, 12), st.tuples(*[st.booleans()] * 3))
def test_documents_inside_blocks_are_those_of_the_store(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], start: int, seq_length: int, how: tuple[bool, bool, bool]
) -> None:
    documents = [[20 * number + place for place in range(length)] for number, length in enumerate(lengths)]
    if sum(lengths) < start + seq_length + 1:
        return
    store = store_of(tmp_path_factory.getbasetemp(), documents)
    blocks = TokenBlocks(store, start, store.num_tokens, seq_length, Isolation(*how))
    expected = by_definition(documents, start, seq_length, blocks.isolation)
    samples = blocks.__getitems__(list(range(len(blocks)))[::-1])[::-1]
    assert [{name: values.tolist() for name, values in sample.items()} for sample in samples] == [
        block if blocks.isolation.are_apart else {name: block[name] for name in ("input_ids", "shift_labels")} for block in expected
    ]
    assert all(torch.equal(blocks[-1][name], values) for name, values in samples[-1].items())


def test_a_batch_of_blocks_says_what_keeps_documents_apart(tmp_path: Path) -> None:
    store = store_of(tmp_path, [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10]])
    blocks = TokenBlocks(store, 0, 10, 4, Isolation(reset_position_ids=True, reset_attention_mask=True))
    assert set(collate_blocks(blocks.__getitems__([0]))) == {"input_ids", "shift_labels"}  # one document: nothing to keep apart
    batch = collate_blocks(blocks.__getitems__([0, 1]))
    assert set(batch) == {"input_ids", "shift_labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert batch["shift_labels"].tolist() == [[2, 3, 4, 5], [6, 7, -100, 9]]
    assert all(torch.equal(collate_blocks([blocks[0], blocks[1]])[name], values) for name, values in batch.items())
    seen = collate_blocks(blocks.__getitems__([1]), reset_attention_mask=False)
    assert seen["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert seen["attention_mask"].tolist() == [[1, 1, 1, 1]]
    masked = collate_blocks(blocks.__getitems__([1]), reset_position_ids=False)
    assert set(masked) == {"input_ids", "shift_labels", "attention_mask"}
    assert masked["attention_mask"].int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]]]
    with pytest.raises(ValueError, match="only a store knows"):
        TokenBlocks(TOKENS, 0, 100, 8, Isolation(eod_mask_loss=True))
    assert pickle.loads(pickle.dumps(blocks)).isolation == blocks.isolation


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**12), st.lists(st.integers(0, 1000), min_size=1, max_size=5).filter(any))
def test_splits_are_contiguous_and_cover_everything(num_tokens: int, weights: list[int]) -> None:
    splits = [weight / sum(weights) for weight in weights]
    ranges = split_ranges(num_tokens, splits)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == num_tokens
    assert all(one[1] == two[0] for one, two in itertools.pairwise(ranges))
    for (start, stop), share in zip(ranges, splits, strict=True):
        assert abs((stop - start) - num_tokens * share) <= 1 + num_tokens * 1e-12
        assert start == stop or share > 0


def test_splits_of_a_hundred() -> None:
    assert split_ranges(100, (0.9, 0.1, 0.0)) == [(0, 90), (90, 100), (100, 100)]
    assert split_ranges(100, (0.0, 1.0, 0.0)) == [(0, 0), (0, 100), (100, 100)]


def test_loader_and_blocks_give_fifty_million_tokens_a_second() -> None:
    blocks = TokenBlocks(np.random.default_rng(0).integers(0, 50_000, 8_000_000).astype(np.uint16), 0, 8_000_000, 1024)
    loader = Loader(blocks, batch_size=16, collate=collate_blocks)
    rates = []
    for epoch in range(6):
        start = time.perf_counter()
        num_tokens = sum(batch["input_ids"].numel() for batch in loader.iterate(epoch))
        rates.append(num_tokens / (time.perf_counter() - start))
    assert max(rates) > 50e6  # measured: 370 million
