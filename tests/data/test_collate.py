"""Samples to batches, compared with transformers' collators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ironloom.data.collate import ColumnFilter, PadCollator, default_collate, keep_columns
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError

SAMPLES = [
    [{"input_ids": [1, 2, 3], "label": 1}, {"input_ids": [4, 5, 6], "label": 0}],
    [{"input_ids": [1, 2], "label": 0.5}, {"input_ids": [4, 5], "label": 2}],
    [{"x": torch.ones(2), "label": torch.tensor(3)}, {"x": torch.zeros(2), "label": torch.tensor(4)}],
    [{"x": np.ones(2, np.float32), "label": np.int32(3)}, {"x": np.zeros(2, np.float32), "label": np.int32(4)}],
    [{"label_ids": [1, 2]}, {"label_ids": [3, 4]}],
    [{"label_ids": [0.5]}, {"label_ids": [1.5]}],
    [{"label_ids": torch.tensor([1.5], dtype=torch.float64)}, {"label_ids": torch.tensor([2.5], dtype=torch.float64)}],
    [{"label": None, "label_ids": [7]}, {"label": None, "label_ids": [8]}],
    [{"labels": [1, -100], "text": "a", "gone": None}, {"labels": [2, 3], "text": "b", "gone": None}],
    [{"x": 1.5, "flag": True, "matrix": [[1, 2], [3, 4]]}, {"x": 2.5, "flag": False, "matrix": [[5, 6], [7, 8]]}],
]


@pytest.mark.parametrize("features", SAMPLES)
def test_mappings_are_collated_as_transformers_does(features: list[dict[str, Any]]) -> None:
    from transformers import default_data_collator

    expected, found = default_data_collator(features), default_collate(features)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_tuples_give_tuples_and_values_one_tensor() -> None:
    one, two = default_collate([(torch.ones(2), 1), (torch.zeros(2), 2)])
    assert torch.equal(one, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(two, torch.tensor([1, 2]))
    assert torch.equal(default_collate([torch.ones(1), torch.zeros(1)]), torch.tensor([[1.0], [0.0]]))
    assert torch.equal(default_collate([3, 4]), torch.tensor([3, 4]))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([{"x": [1, 2]}, {"x": [1]}], r"samples differ in the shape of 'x': \(2,\), \(1,\) \(give a data_collator that pads"),
        ([{"x": torch.ones(2)}, {"x": torch.ones(3)}], r"shape of 'x': \(2,\), \(3,\)"),
        ([{"x": np.ones(2)}, {"x": np.ones((1, 2))}], r"shape of 'x': \(2,\), \(1, 2\)"),
        ([{"x": [[1], [2, 3]]}, {"x": [[1], [2, 3]]}], "'x' cannot be made into a tensor"),
        ([{"x": 1}, {"x": "a"}], "shape of 'x': int, str"),
        ([{"x": 1}, {"y": 1}], "sample 1 of the batch has no 'x'"),
        ([{"label": "a"}, {"label": "b"}], "'label' cannot be made into a tensor"),
        ([(1,), (1, 2)], "tuples of different lengths"),
        (["a", "b"], "a sample is a str; .*give a data_collator"),
    ],
)
def test_samples_that_do_not_fit_are_refused(features: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        default_collate(features)


@pytest.fixture(scope="module")
def hugging_face_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.bytes().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_padding_is_that_of_transformers(hugging_face_tokenizer: Any, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import DataCollatorWithPadding

    features = [{"input_ids": [1, 2, 3], "label": 1}, {"input_ids": [4], "label": 0}]
    expected = DataCollatorWithPadding(hugging_face_tokenizer)(features)
    found = PadCollator(hugging_face_tokenizer)(features)
    assert {name: values.tolist() for name, values in found.items()} == {name: values.tolist() for name, values in expected.items()}
    assert found["labels"].tolist() == [1, 0]
    assert "faster" not in capfd.readouterr().err


def test_what_a_tokenizer_does_not_pad_is_refused(hugging_face_tokenizer: Any) -> None:
    features = [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3], "labels": [1]}]
    with pytest.raises(DataError, match="give a data_collator that pads every column"):
        PadCollator(hugging_face_tokenizer)(features)


def test_columns_that_the_model_does_not_take_are_left_out() -> None:
    collate = ColumnFilter(default_collate, ["x"])
    assert list(collate([{"x": 1, "y": 2, "label": 0}])) == ["labels", "x"]
    assert torch.equal(collate([3, 4]), torch.tensor([3, 4]))
    with pytest.raises(DataError, match="none of the columns y is an input of the model"):
        collate([{"y": 2}])


def test_columns_of_hugging_face_datasets_are_removed() -> None:
    import datasets

    dataset = datasets.Dataset.from_dict({"x": [1], "y": [2], "label": [3]})
    assert keep_columns(dataset, ["x"]).column_names == ["x", "label"]
    assert dataset.column_names == ["x", "y", "label"]
    stream = keep_columns(dataset.to_iterable_dataset(), ["x"])
    assert list(next(iter(stream))) == ["x", "label"]
    with pytest.raises(DataError, match=r"none of the columns x, y is an input of the model \(.*remove_unused_columns"):
        keep_columns(dataset.remove_columns("label"), ["z"])


def test_the_input_of_a_transform_stays() -> None:
    import datasets

    dataset = datasets.Dataset.from_dict({"text": ["abc"]})
    dataset.set_transform(lambda rows: {"x": [len(text) for text in rows["text"]]})
    assert keep_columns(dataset, ["x"])[0] == {"x": 3}


def test_other_datasets_stay_as_they_are() -> None:
    data = [{"x": 1, "y": 2}]
    assert keep_columns(data, ["x"]) is data


def test_positions_that_start_again_stay_for_the_model_that_does_not_take_them():
    """It would mix the documents of a row without a word; the trainer refuses it."""
    ones, packed = {"x": 1, "position_ids": [0, 1, 2]}, {"x": 2, "position_ids": torch.tensor([0, 1, 0])}
    collate = ColumnFilter(default_collate, ["x"])
    assert collate([ones, ones]).keys() == {"x"}
    assert collate([ones, packed])["position_ids"].tolist() == [[0, 1, 2], [0, 1, 0]]
