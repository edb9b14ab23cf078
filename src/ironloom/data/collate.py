"""Samples to a batch: stacking, padding, and leaving out columns that the model does not take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ironloom.errors import DataError

_LABEL_NAMES = ("label", "label_ids")
_POSITIONS = "position_ids"


def default_collate(features: Sequence[Any]) -> Any:
    """Stack samples of equal shape.

    Mappings follow the rules of transformers' ``default_data_collator``: ``label`` or ``label_ids`` becomes
    ``labels``, whole numbers become int64 and others float32; texts and None are left out.

    Args:
        features: Samples: mappings, tuples, or single values, all alike. A value is a tensor, an array, a number, or
            a nested list of numbers.

    Returns:
        A dict of tensors with a leading batch dimension; a tuple of such tensors for tuples; one tensor for values.

    Raises:
        DataError: If samples differ in keys or in shape, or cannot be made into a tensor.
    """
    first = features[0]
    if isinstance(first, Mapping):
        return _collate_mappings(features)
    if isinstance(first, tuple):
        if any(len(sample) != len(first) for sample in features):
            raise DataError("samples are tuples of different lengths")
        return tuple(_stacked(f"item {place}", column) for place, column in enumerate(zip(*features, strict=True)))
    if isinstance(first, torch.Tensor | np.ndarray | int | float | list):
        return _stacked("the sample", features)
    raise DataError(
        f"a sample is a {type(first).__name__}; mappings, tuples, tensors and numbers can be batched "
        "(give a data_collator for anything else)"
    )


class PadCollator:
    """Pads with a tokenizer, as transformers' ``DataCollatorWithPadding`` does.

    Args:
        processing_class: A tokenizer or processor with ``pad(features, return_tensors="pt")``.
    """

    def __init__(self, processing_class: Any):
        self.processing_class = processing_class

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """The padded batch, with ``label`` or ``label_ids`` renamed to ``labels``.

        Raises:
            DataError: If values that the tokenizer does not pad differ in length, or it has no padding token.
        """
        # A fast tokenizer warns that calling it would be faster than padding; here there is no text to call it with.
        warned: dict[str, bool] | None = getattr(self.processing_class, "deprecation_warnings", None)
        if warned is not None:
            warned["Asking-to-pad-a-fast-tokenizer"] = True
        try:
            batch = self.processing_class.pad(features, return_tensors="pt")
        except ValueError as error:
            raise DataError(
                f"{type(self.processing_class).__name__} cannot pad these samples: {error} (give a data_collator that pads every column)"
            ) from error
        for name in _LABEL_NAMES:
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


class ColumnFilter:
    """Leaves out what the model does not take before it collates; samples that are no mappings pass unchanged.

    Positions that start again within a sample always stay: a model that does not take them would mix documents, which the trainer refuses.

    Args:
        collate: Makes the batch.
        names: The keys to keep. ``label`` and ``label_ids`` are kept in any case.
    """

    def __init__(self, collate: Callable[[Any], Any], names: Collection[str]):
        self._collate = collate
        self._names = frozenset(names) | frozenset(_LABEL_NAMES)

    def __call__(self, features: Sequence[Any]) -> Any:
        """The batch of what is left.

        Raises:
            DataError: If nothing is left.
        """
        if not isinstance(features[0], Mapping):
            return self._collate(features)
        names = self._names
        if _POSITIONS not in names and any(_starts_again(sample.get(_POSITIONS)) for sample in features):
            names = names | {_POSITIONS}
        kept = [sample if sample.keys() <= names else {name: sample[name] for name in sample if name in names} for sample in features]
        if not kept[0]:
            raise _nothing_left(features[0], self._names)
        return self._collate(kept)


def keep_columns(dataset: Any, names: Collection[str]) -> Any:
    """A Hugging Face dataset without the columns that are not in ``names``; any other dataset as it is.

    Columns of a dataset with a transform (``set_transform``) are the input of that transform, so they stay: use
    :class:`ColumnFilter` for what comes out of it, as for all other datasets.

    Args:
        dataset: The samples.
        names: The columns to keep. ``label`` and ``label_ids`` are kept in any case.

    Returns:
        The dataset; the one given is not changed.

    Raises:
        DataError: If no column would be left.
    """
    library = sys.modules.get("datasets")
    if library is None:  # then this is none of its datasets, and a second of importing is saved
        return dataset
    if isinstance(dataset, library.Dataset):
        if dataset.format["type"] == "custom":
            return dataset
    elif not isinstance(dataset, library.IterableDataset):
        return dataset
    columns = dataset.column_names
    if columns is None:  # a stream that does not know its columns before it is read
        return dataset
    kept = {*names, *_LABEL_NAMES, _POSITIONS}
    unused = [name for name in columns if name not in kept]
    if columns and len(unused) == len(columns):
        raise _nothing_left(columns, kept)
    return dataset.remove_columns(unused) if unused else dataset


def _nothing_left(columns: Collection[str], names: Collection[str]) -> DataError:
    return DataError(
        f"none of the columns {', '.join(sorted(map(str, columns)))} is an input of the model "
        f"({', '.join(sorted(names))}): rename them, or set remove_unused_columns to false"
    )


def _starts_again(positions: Any) -> bool:
    """Whether positions of a sample do not go on by one everywhere."""
    return positions is not None and bool((np.diff(np.asarray(positions)) != 1).any())


def _collate_mappings(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    batch = {}
    label_name = next((name for name in _LABEL_NAMES if features[0].get(name) is not None), None)
    if label_name is not None:
        batch["labels"] = _stacked_labels(label_name, _column(features, label_name))
    for name, value in features[0].items():
        if name not in _LABEL_NAMES and value is not None and not isinstance(value, str):
            batch[name] = _stacked(repr(name), _column(features, name))
    return batch


def _column(features: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    try:
        return [sample[name] for sample in features]
    except KeyError:
        lacking = next(place for place, sample in enumerate(features) if name not in sample)
        raise DataError(f"sample {lacking} of the batch has no {name!r}, the first one has") from None


def _stacked_labels(name: str, values: list[Any]) -> torch.Tensor:
    """Labels are int64 if they are whole numbers and float32 else, whatever width they come in."""
    stacked = _stacked(repr(name), values)
    if name == "label_ids" and isinstance(values[0], torch.Tensor):
        return stacked
    return stacked.to(torch.float32 if stacked.is_floating_point() else torch.int64)


def _stacked(what: str, values: Sequence[Any]) -> torch.Tensor:
    first = values[0]
    try:
        if isinstance(first, torch.Tensor):
            return torch.stack(list(values))
        if isinstance(first, np.ndarray):
            return torch.from_numpy(np.stack(values))
        return torch.tensor(values)
    except (ValueError, RuntimeError, TypeError) as error:
        shapes = list(dict.fromkeys(_shape(value) for value in values))
        if len(shapes) > 1:
            raise DataError(
                f"samples differ in the shape of {what}: {', '.join(shapes[:4])} (give a data_collator that pads, or processing_class)"
            ) from error
        raise DataError(f"{what} cannot be made into a tensor: {error} (give a data_collator)") from error


def _shape(value: Any) -> str:
    """The shape of a tensor, an array or a list, the kind of anything else."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return str(tuple(value.shape))
    if isinstance(value, Sequence) and not isinstance(value, str):
        inner = {_shape(part) for part in value if isinstance(part, Sequence)}
        return f"({len(value)},)" if not inner else f"({len(value)}, {' or '.join(sorted(inner))})"
    return type(value).__name__
