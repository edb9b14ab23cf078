"""Weights of messages: from the record to the batch, alone, packed, mixed; and a store that has none if all are 1."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chat_templates import CHATML, QWEN3
from chats import answer, user
from ironloom.cli import main
from ironloom.data import SFTData, collate_rows
from ironloom.data.chat import ChatRenderer
from ironloom.data.mixture import Mixture
from ironloom.data.packed import PackedRows
from ironloom.data.preferences.records import pair_of
from ironloom.data.preparation import Counted, build_store
from ironloom.data.store import Rows, TokenStore
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError

BYTES = Tokenizer.bytes()

Talk = list[dict[str, Any]]


def data(folder: Path, talks: list[Talk], **options: Any) -> SFTData:
    source = folder / "chats.jsonl"
    source.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in talks))
    shape: dict[str, Any] = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": None, "seq_length": 300}
    defaults = {"splits": (1.0, 0.0, 0.0), "chat_template": CHATML, "cache_dir": str(folder / "cache")}
    return SFTData([str(source)], **{**shape, **defaults, **options})


def turns(*weights: float | None) -> Talk:
    """A conversation whose answers weigh so much; None: nothing is said of it."""
    pairs = [(user(f"Q{n}"), answer(f"A{n}", **({} if w is None else {"weight": w}))) for n, w in enumerate(weights)]
    return [message for pair in pairs for message in pair]


def weighed(sample: dict[str, torch.Tensor]) -> list[tuple[str, float]]:
    """What is trained, in runs of equal weight."""
    counts = sample["shift_labels"] >= 0
    labels, weights = sample["shift_labels"][counts].tolist(), sample["loss_weights"][counts].tolist()
    runs = itertools.groupby(zip(weights, labels, strict=True), key=lambda pair: pair[0])
    return [(BYTES.decode([label for _, label in run]), weight) for weight, run in runs]


def test_each_answer_of_a_conversation_has_its_weight(tmp_path: Path) -> None:
    rows = data(tmp_path, [turns(None, 0.5, 0, 2)]).train
    (sample,) = rows
    assert sample["loss_weights"].dtype is torch.float32
    assert weighed(sample) == [("A0<|im_end|>", 1.0), ("A1<|im_end|>", 0.5), ("A3<|im_end|>", 2.0)]
    assert (sample["loss_weights"][sample["shift_labels"] < 0] == 1).all()


def test_an_answer_that_has_a_row_of_its_own_takes_its_weight_there() -> None:
    """This template renders earlier answers otherwise once others follow."""
    thought = [user("a"), answer("<think>\nb\n</think>\n\nc", weight=0.25), user("d"), answer("<think>\ne\n</think>\n\nf", weight=4)]
    rows = ChatRenderer(BYTES, QWEN3).rows(thought)
    found = [[weight for weight, counts in zip(row.weights or [], row.trained, strict=True) if counts] for row in rows]
    assert [set(weights) for weights in found] == [{0.25}, {4.0}]


@pytest.mark.parametrize(("too_long", "length"), [("left", 72), ("right", 100)])
def test_a_row_that_is_cut_keeps_the_weights_of_what_is_left(tmp_path: Path, too_long: Any, length: int) -> None:
    talk = [user("q" * 30), answer("A0", weight=0.5), user("Q1"), answer("A1", weight=0.25)]
    (sample,) = data(tmp_path, [talk], too_long=too_long, seq_length=length).train
    assert len(sample["input_ids"]) == length
    assert weighed(sample) == [("A1<|im_end|>", 0.25) if too_long == "left" else ("A0<|im_end|>", 0.5)]
    assert (sample["loss_weights"][sample["shift_labels"] < 0] == 1).all()


def test_weights_of_one_are_the_store_without_weights(tmp_path: Path) -> None:
    stores = []
    for name, weights in (("none", (None, None)), ("ones", (1, 1.0)), ("masked", (0, 1))):
        (tmp_path / name).mkdir()
        rows = data(tmp_path / name, [turns(None), turns(*weights)]).train
        assert set(rows[0]) == {"input_ids", "shift_labels"}
        stores.append(rows.store)
    assert stores[0].fingerprint == stores[1].fingerprint
    assert not any((store.folder / "weights.bin").exists() for store in stores)
    assert all(store.weights is None for store in stores)


def test_a_batch_is_filled_up_with_what_weighs_nothing(tmp_path: Path) -> None:
    rows = data(tmp_path, [turns(0.5), turns(1, 2)]).train
    batch = collate_rows([rows[0], rows[1]], length=150)
    for row, sample in enumerate(rows):
        length = len(sample["input_ids"])
        assert torch.equal(batch["loss_weights"][row, :length], sample["loss_weights"])
        assert not batch["loss_weights"][row, length:].any()
    assert batch["loss_weights"].shape == batch["shift_labels"].shape


def test_packed_labels_weigh_as_much_as_alone(tmp_path: Path) -> None:
    talks = [turns(*weights) for weights in ((0.5,), (1, 2), (None,), (0.25, 0, 3), (1.5,), (1,), (0.125, 0.75))]
    alone, packed = data(tmp_path, talks).train, data(tmp_path, talks, packing="best_fit").train
    assert isinstance(packed, PackedRows) and len(packed) < len(alone)
    expected = [
        (int(label), float(weight)) for row in alone for label, weight in zip(row["shift_labels"], row["loss_weights"], strict=True)
    ]
    batch = collate_rows(packed.__getitems__(list(range(len(packed)))), length=300)
    counts = batch["shift_labels"] >= 0
    found = zip(batch["shift_labels"][counts].tolist(), batch["loss_weights"][counts].tolist(), strict=True)
    assert sorted(found) == sorted(pair for pair in expected if pair[0] >= 0)
    assert torch.equal(packed[0]["loss_weights"], packed.__getitems__([0])[0]["loss_weights"])


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_sources_with_and_without_weights_can_be_mixed(tmp_path: Path, packing: str) -> None:
    for name in ("heavy", "plain"):
        (tmp_path / name).mkdir()
    heavy, plain = data(tmp_path / "heavy", [turns(0.5)] * 2, packing=packing), data(tmp_path / "plain", [turns(None)] * 2, packing=packing)
    mixture = Mixture({"plain": plain.train, "heavy": heavy.train})
    batch = collate_rows(mixture.__getitems__(list(range(len(mixture)))), length=300)
    sums = (batch["loss_weights"] * (batch["shift_labels"] >= 0)).sum(dim=1)
    targets = (batch["shift_labels"] >= 0).sum(dim=1)
    assert (sums / targets).tolist() == [1.0] * len(plain.train) + [0.5] * len(heavy.train)


def test_pairs_have_no_weights() -> None:
    record = {"prompt": [user("a")], "chosen": [answer("b", weight=0.5)], "rejected": [answer("c")]}
    with pytest.raises(DataError, match=r"here: chosen: message 1: 'weight' is 0 or 1 in pairs, not 0\.5"):
        pair_of(record, "here")
    assert pair_of({**record, "chosen": [answer("b", weight=1)]}, "here")


class Weighing:
    """An encoder of numbers, of which some weigh as much as they are; those below 1,000 weigh 1."""

    fingerprint, tokenizer, vocab_size, columns = "weighing", "none", 5000, ("trained",)

    def __init__(self, most: int = 5000):
        self.most = most

    def __call__(self, records: list[int]) -> Rows:
        if max(records) >= self.most:
            raise RuntimeError("killed")
        columns: dict[str, Any] = {"trained": [[1] for _ in records]}
        if max(records) >= 1000:
            columns["weights"] = [[number if number >= 1000 else 1] for number in records]
        return Rows.of([[number] for number in records], **columns)


@pytest.mark.parametrize(("stop", "is_lost"), [(600, False), (1999, False), (2600, False), (2600, True)])
def test_weights_begin_where_the_first_one_is_and_a_kill_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, is_lost: bool
) -> None:
    from ironloom.data.preparation import build

    monkeypatch.setattr(build, "size_of", lambda record: 1 << 14)
    source = Counted(lambda: iter(range(3000)))
    whole = build_store(source, Weighing(), "key", cache_dir=tmp_path / "whole", num_workers=1)
    assert whole.weights is not None
    assert np.array_equal(whole.weights, np.where(whole.tokens < 1000, 1, whole.tokens))
    with pytest.raises(RuntimeError, match="killed"):
        build_store(source, Weighing(stop), "key", cache_dir=tmp_path / "parts", num_workers=1)
    (journal,) = (tmp_path / "parts").rglob("journal.jsonl")
    assert ("weights.bin" in journal.read_text()) == (stop > 1100)
    if is_lost:  # the lines that know of weights were not on the disk yet
        journal.write_text("".join(line for line in journal.read_text().splitlines(keepends=True) if "weights.bin" not in line))
    found = build_store(source, Weighing(), "key", cache_dir=tmp_path / "parts", num_workers=1)
    found.verify()
    assert found.fingerprint == whole.fingerprint
    assert TokenStore(found.folder).weights is not None


def test_a_weight_that_is_none_ends_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns(1, -2)}) + "\n")
    shape = "{num_layers: 1, d_model: 8, d_ffn: 8, num_attention_heads: 1, head_dim: 8, max_seq_len: 64, tokenizer_type: byte}"
    options = "{task_type: sft, train_datasets: [chats.jsonl], chat_template: plain}"
    (tmp_path / "run.yaml").write_text(f"model: {shape}\ndata: {options}\n")
    with pytest.raises(SystemExit) as end:
        main(["data", "prepare", "run.yaml"])
    assert end.value.code == 3
    assert "'weight' is 0 or a number from 1e-30 to 1e+30, not -2" in capsys.readouterr().err
