"""Several sets to evaluate or to test on: each by itself, under a name of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ironloom.data.pretrain import PretrainData
from ironloom.data.readers import READERS
from ironloom.errors import ConfigError
from ironloom.settings.parts import KINDS, label_of, parts_of


def data(folder: Path, **options: Any) -> PretrainData:
    (folder / "train.txt").write_text("a" * 999)
    for name in ("news", "my code"):
        (folder / f"{name}.jsonl").write_text('{"text": "%s"}\n' % (name[0] * 99))
    defaults: dict[str, Any] = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": None, "seq_length": 10}
    return PretrainData([str(folder / "train.txt")], cache_dir=str(folder / "cache"), **defaults, **options)


def test_each_of_several_sets_is_its_own(tmp_path: Path) -> None:
    sets = [str(tmp_path / "news.jsonl"), str(tmp_path / "my code.jsonl")]
    prepared = data(tmp_path, eval_datasets=sets, test_datasets=sets[:1], splits=(0.9, 0.1, 0.0), eval_samples=4)
    assert isinstance(prepared.eval, dict)
    assert {name: (len(rows), chr(rows[0]["input_ids"][0])) for name, rows in prepared.eval.items()} == {
        "news": (4, "n"),
        "my_code": (4, "m"),
    }
    assert not isinstance(prepared.test, dict), "one set needs no name"
    assert len(prepared.train) == 99
    assert list(prepared.stores) == ["training", "evaluation/news", "evaluation/my_code", "test"]


def test_two_of_one_name_are_refused_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    sets = [str(tmp_path / "news.jsonl"), {"source": str(tmp_path / "other" / "news.txt")}]
    with pytest.raises(ConfigError, match=r"eval_datasets\.1: is called 'news' like entry 0.* \(give it a name\)"):
        data(tmp_path, eval_datasets=sets)
    data(tmp_path, eval_datasets=[sets[0], {"source": sets[0], "name": "again"}])


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ("HuggingFaceH4/ultrachat_200k", "ultrachat_200k"),
        ("texts/a b.jsonl.gz", "a_b"),
        ({"dataset_path": "x/v1.5"}, "v1.5"),
        ({"source": ".txt"}, ".txt"),
        ({"source": "x", "name": "my web/2024"}, "my_web_2024"),
    ],
)
def test_labels(entry: Any, label: str) -> None:
    assert label_of(entry) == label


def test_training_data_is_one_part_unless_it_is_mixed() -> None:
    assert [label for label, _ in parts_of("train_datasets", ["a", {"source": "b"}])] == [""]
    assert [label for label, _ in parts_of("train_datasets", ["a", {"source": "b", "ratio": 0.5}])] == ["a", "b"]


def test_what_names_a_file_is_what_can_be_read() -> None:
    assert tuple(READERS) == KINDS
