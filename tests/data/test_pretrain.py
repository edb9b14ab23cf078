"""What a configuration names, from text to blocks: splits, separate sets, the cache, and every mistake in it."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom.data.blocks import collate_blocks
from ironloom.data.loader import make_loader
from ironloom.data.pretrain import PretrainData
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError, DataError

TEXT = "".join(chr(97 + number % 26) for number in range(999))  # and the end token: 1000 byte tokens


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def data(corpus: Any, cache: Path, **options: Any) -> PretrainData:
    defaults: dict[str, Any] = {
        "tokenizer_type": "byte",
        "vocab_name_or_path": None,
        "vocab_size": 300,
        "seq_length": 10,
        "splits": (0.8, 0.15, 0.05),
        "cache_dir": str(cache),
    }
    return PretrainData(corpus if isinstance(corpus, list) else [str(corpus)], **{**defaults, **options})


def first(blocks: Any) -> int:
    return int(blocks[0]["input_ids"][0])


def test_one_corpus_is_split_in_three(corpus: Path, tmp_path: Path) -> None:
    prepared = data(corpus, tmp_path)
    assert (len(prepared.train), len(prepared.eval), len(prepared.test)) == (79, 14, 4)  # type: ignore[arg-type]
    assert [first(part) for part in (prepared.train, prepared.eval, prepared.test)] == [97, ord(TEXT[800]), ord(TEXT[950])]
    assert prepared.tokenizer.fingerprint == Tokenizer.bytes().fingerprint


def test_whole_texts_share_rows_and_belong_to_the_split_in_which_they_begin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lengths = [5, 9, 30, 2, 8, 6, 12, 3, 7, 18]  # and the end token of each: 110 tokens
    (tmp_path / "texts.jsonl").write_text("".join('{"text": "%s"}\n' % (chr(97 + at) * length) for at, length in enumerate(lengths)))
    caplog.set_level(logging.INFO, "ironloom")

    def rows(split: str, **options: Any) -> list[list[tuple[str, int, bool]]]:
        """The documents of each row: letter, length, and whether its last label is the end token."""
        prepared = data(tmp_path / "texts.jsonl", tmp_path, seq_length=20, splits=(0.5, 0.5, 0.0), packing="best_fit", **options)
        found = []
        for row in getattr(prepared, split):
            pieces: list[tuple[str, int, bool]] = []
            for letter, run in itertools.groupby(
                zip(row["input_ids"].tolist(), row["shift_labels"].tolist(), strict=True), lambda pair: pair[0]
            ):
                labels = [label for _, label in run]
                if letter != 256:
                    pieces.append((chr(letter), len(labels), labels[-1] == 256))
            found.append(pieces)
        return found

    assert rows("train") == [
        [("a", 5, True), ("d", 2, True), ("e", 8, True)],
        [("b", 9, True), ("c", 10, True)],
        [("c", 20, False)],
    ]
    assert {letter for row in rows("eval") for letter, *_ in row} == set("fghij")
    assert len(rows("eval", eval_samples=1)) == 1
    assert not any(ends for row in rows("train", eod_mask_loss=True) for *_, ends in row)
    assert "training data: 5 documents in " in caplog.text
    # Where texts see each other, the end token of each stands between them.
    together = {"reset_position_ids": False, "reset_attention_mask": False}
    prepared = data(tmp_path / "texts.jsonl", tmp_path, seq_length=20, splits=(1, 0, 0), packing="best_fit", **together)
    assert set(prepared.train[0]) == {"input_ids", "shift_labels"}
    assert sum(int((row["input_ids"] == 256).sum()) for row in prepared.train) == 10  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="packing: texts are packed as concat or best_fit, not 'none'"):
        data(tmp_path / "texts.jsonl", tmp_path, packing="none")


def test_texts_end_to_end_are_kept_apart_unless_they_shall_not_be(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "abc"}\n{"text": "defgh"}\n{"text": "ijklmnopqrs"}\n')
    options: dict[str, Any] = {"seq_length": 8, "splits": (1, 0, 0)}
    apart = data(tmp_path / "texts.jsonl", tmp_path, **options)
    assert apart.train[0]["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert apart.train[0]["shift_labels"].tolist() == [*b"bc", 256, -100, *b"efgh"]
    one = {"reset_position_ids": False, "reset_attention_mask": False}
    together = data(tmp_path / "texts.jsonl", tmp_path, eod_mask_loss=True, **one, **options)
    assert together.train[0]["shift_labels"].tolist() == [*b"bc", -100, *b"defgh"]
    assert "position_ids" not in together.train[0]


def test_a_share_of_zero_is_no_set(corpus: Path, tmp_path: Path) -> None:
    prepared = data(corpus, tmp_path, splits=(1.0, 0.0, 0.0))
    assert prepared.eval is None
    assert prepared.test is None
    assert len(prepared.train) == 99


def test_a_set_with_its_own_datasets_is_not_cut_from_training(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("z" * 500)
    prepared = data(corpus, tmp_path, eval_datasets=[str(other)])
    assert len(prepared.train) == 94  # 0.8 and the 0.15 that evaluation does not need
    assert (len(prepared.eval), first(prepared.eval)) == (50, ord("z"))  # type: ignore[arg-type]
    assert first(prepared.test) == ord(TEXT[950])
    assert len(data(corpus, tmp_path, eval_datasets=[str(other)], test_datasets=[str(other)]).train) == 99


def test_samples_limit_evaluation_and_test(corpus: Path, tmp_path: Path) -> None:
    prepared = data(corpus, tmp_path, eval_samples=3, test_samples=1000)
    whole = data(corpus, tmp_path)
    assert (len(prepared.eval), len(prepared.test)) == (3, 4)  # type: ignore[arg-type]
    assert torch.equal(prepared.eval[2]["shift_labels"], whole.eval[2]["shift_labels"])  # type: ignore[index]


def test_datasets_are_read_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 99)
    (tmp_path / "b.jsonl").write_text('{"body": "bbb"}\n{"body": "ccc"}\n' * 20)
    entries = [str(tmp_path / "a.txt"), {"source": str(tmp_path / "b.jsonl"), "text_column": "body", "max_samples": 2}]
    tokens = data(entries, tmp_path, splits=(1.0, 0.0, 0.0), seq_length=107).train[0]
    assert tokens["input_ids"].tolist() == [*b"a" * 99, 256, *b"bbb", 256, *b"ccc"]


def test_the_tokenizer_is_trained_on_the_training_documents_and_kept(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"tokenizer_type": "bbpe", "vocab_size": 280, "seq_length": 4}
    prepared = data(corpus, tmp_path / "cache", **options)
    assert prepared.tokenizer.vocab_size == 280
    assert prepared.tokenizer.fingerprint == Tokenizer.train([TEXT], 280).fingerprint
    monkeypatch.setattr(Tokenizer, "train", lambda *args: pytest.fail("trained again"))
    assert data(corpus, tmp_path / "cache", **options).tokenizer.fingerprint == prepared.tokenizer.fingerprint


def test_a_damaged_tokenizer_in_the_cache_is_trained_anew(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"tokenizer_type": "bbpe", "vocab_size": 280, "seq_length": 4}
    expected = data(corpus, tmp_path / "cache", **options).tokenizer.fingerprint
    (file,) = (tmp_path / "cache" / "tokenizers").glob("*/tokenizer.json")
    file.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert data(corpus, tmp_path / "cache", **options).tokenizer.fingerprint == expected
    assert "trained anew" in caplog.text


def test_nothing_is_read_before_it_is_needed_and_then_once(corpus: Path, tmp_path: Path) -> None:
    prepared = data(corpus, tmp_path / "cache", tokenizer_type="bbpe", vocab_size=257)
    assert not (tmp_path / "cache").exists()
    reports: list[Any] = []
    prepared.prepare(lambda done, what, fraction=None: reports.append((done, what, fraction)))
    assert reports == [(0, "training the tokenizer", None), (1, "tokenizing, 1,000 tokens", 1.0)]
    corpus.unlink()
    prepared.prepare(lambda done, what, fraction=None: pytest.fail("prepared again"))
    assert prepared.train is prepared.train


def test_a_changed_corpus_is_prepared_anew(corpus: Path, tmp_path: Path) -> None:
    assert first(data(corpus, tmp_path).train) == ord("a")
    corpus.write_text("b" * 999)
    assert first(data(corpus, tmp_path).train) == ord("b")


def test_too_little_text_is_named_with_its_set(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training data: 800 tokens are less than one sequence"):
        data(corpus, tmp_path, seq_length=900).prepare()
    prepared = data(corpus, tmp_path, seq_length=100)
    prepared.prepare()
    assert len(prepared.eval) == 1  # type: ignore[arg-type]
    with pytest.raises(DataError, match="test data: 50 tokens are less than one sequence"):
        assert prepared.test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_datasets": []}, "train_datasets: at least one dataset"),
        ({"train_datasets": "a.txt"}, "train_datasets: expected a list"),
        ({"train_datasets": [5]}, r"train_datasets\.0: expected a name or a mapping"),
        ({"train_datasets": [""]}, r"train_datasets\.0: expected the name"),
        ({"train_datasets": [{"dataset": "a"}]}, r"train_datasets\.0\.dataset: unknown key \(did you mean 'dataset_path'"),
        ({"train_datasets": [{"source": "a", "max_samples": 0}]}, r"train_datasets\.0\.max_samples: expected a number of at least 1"),
        ({"train_datasets": [{"source": "a", "ratio": 0}]}, r"train_datasets\.0\.ratio: expected a number greater than 0"),
        ({"test_datasets": [{"source": "a", "ratio": 0.5}]}, r"test_datasets\.0\.ratio: has no effect"),
        ({"train_datasets": [{"source": "a", "dataset_path": "b"}]}, r"train_datasets\.0\.dataset_path: "),
        ({"train_datasets": ({"source": "a", "messages_column": "m"},)}, r"train_datasets\.0\.messages_column: has no effect on pretrain"),
        ({"eval_datasets": [{"source": "a", "task_type": "sft"}]}, r"eval_datasets\.0\.task_type: 'sft' in a run that trains 'pretrain'"),
        ({"eval_datasets": [{}]}, r"eval_datasets\.0\.dataset_path: "),
        ({"test_datasets": [None]}, r"test_datasets\.0: expected a name"),
        ({"splits": (0.5, 0.4)}, "splits: expected three shares"),
        ({"splits": (0.5, 0.4, 0.2)}, "splits: expected three shares"),
        ({"splits": (1.5, -0.5, 0.0)}, "splits: expected three shares"),
        ({"splits": (0.0, 0.5, 0.5)}, "splits: the share of training data is 0"),
        ({"seq_length": 0}, "seq_length: expected at least 1"),
        ({"eval_samples": 0}, "eval_samples: expected at least 1"),
        ({"tokenizer_type": "word"}, "tokenizer_type: unknown type 'word'"),
        ({"tokenizer_type": "llama"}, "vocab_name_or_path: a llama tokenizer needs"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    train_datasets = options.pop("train_datasets", ["python-docs"])
    arguments = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": 300, "seq_length": 8, **options}
    with pytest.raises(ConfigError, match=message):
        PretrainData(train_datasets, **arguments)


def test_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        PretrainData([5], tokenizer_type="byte", vocab_name_or_path=None, vocab_size=300, seq_length=0, splits=(1, 1, 1))  # type: ignore[list-item]
    assert [problem.path for problem in caught.value.problems] == ["train_datasets.0", "splits", "seq_length"]


def test_a_loaded_vocabulary_larger_than_asked_for_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer_type": "byte", "vocab_name_or_path": None, "seq_length": 32, "cache_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match="257 tokens, more than 200"):
        PretrainData(["python-docs"], vocab_size=200, **options).prepare()
    assert PretrainData(["python-docs"], vocab_size=None, **options).tokenizer.vocab_size == 257


def test_a_token_store_is_read_in_the_training_process(tmp_path: Path) -> None:
    """Workers would only slow it down, so that no number of them starts any."""
    data = PretrainData(
        ["python-docs"], tokenizer_type="byte", vocab_name_or_path=None, vocab_size=None, seq_length=32, cache_dir=str(tmp_path)
    )
    loader = make_loader(data.train, batch_size=4, collate=collate_blocks, num_workers=8, persistent_workers=True)
    batch = next(loader.iterate(0))
    assert multiprocessing.active_children() == []
    assert batch["input_ids"].shape == (4, 32)
