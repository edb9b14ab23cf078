"""Text from datasets on the Hugging Face hub, read as a stream, and from folders that ``datasets`` has saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ironloom.data.readers import Text, text_or_error
from ironloom.errors import DataError


def read(source: str, *, text_column: str | None, split: str, subset: str | None, skip: int = 0) -> Iterator[Text]:
    """The texts of one split, in the order of the hub.

    Args:
        source: The id of the dataset; ``id@revision`` pins it.
        text_column: The column that holds the text; None: whole rows, with their places.
        split: The split.
        subset: The configuration; None for the only one.
        skip: Leave out so many rows.

    Raises:
        DataError: If the hub or the dataset cannot be reached, breaks off, or has no such column.
    """
    import datasets

    name, _, revision = source.partition("@")
    try:
        dataset = datasets.load_dataset(name, name=subset, split=split, revision=revision or None, streaming=True)
        rows = iter(dataset.skip(skip) if skip else dataset)
    except Exception as error:  # the library, the hub and the network each have their own kinds
        raise DataError(
            f"{source}: no file or folder of this name is here, and as a dataset of the Hugging Face hub it cannot be opened: "
            f"{type(error).__name__}: {error} (without a network: download it elsewhere and name the folder with its "
            "parquet or jsonl files, or use python-docs or python-stdlib)"
        ) from error
    yield from _texts(rows, source, text_column, skip)


def is_saved(path: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` of ``datasets`` writes."""
    return path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_saved(path: Path, *, text_column: str | None, split: str, skip: int = 0) -> Iterator[Text]:
    """The texts of a saved dataset, memory-mapped.

    Args:
        path: A folder for which :func:`is_saved` holds.
        text_column: The column that holds the text; None: whole rows, with their places.
        split: The split, where it was saved with splits.
        skip: Leave out so many rows.

    Raises:
        DataError: If it cannot be read, or has no such split.
    """
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # as above
        raise DataError(f"{path}: cannot be read as a saved dataset: {type(error).__name__}: {error}") from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise DataError(f"{path}: no split {split!r}; there is {', '.join(dataset)} (set split)")
        dataset = dataset[split]
    if text_column is not None and text_column not in dataset.column_names:
        raise DataError(f"{path}: no column {text_column!r}; there is {', '.join(dataset.column_names)} (set text_column)")
    rows = dataset.select(range(skip, len(dataset))) if skip else dataset
    wanted = rows if text_column is None else rows.select_columns([text_column])
    yield from _texts(iter(wanted), str(path), text_column, skip)


def _texts(rows: Iterator[Any], source: str, text_column: str | None, number: int) -> Iterator[Text]:
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"{source}: reading broke off at row {number}: {type(error).__name__}: {error}") from error
        yield text_or_error(row, text_column, f"{source}: row {number}")
        number += 1
