"""Text from datasets on the Hugging Face hub, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.data.readers import text_of
from ironloom.errors import DataError


def read(source: str, *, text_column: str, split: str, subset: str | None) -> Iterator[str]:
    """The texts of one split, in the order of the hub.

    Args:
        source: The id of the dataset; ``id@revision`` pins it.
        text_column: The column that holds the text.
        split: The split.
        subset: The configuration; None for the only one.

    Raises:
        DataError: If the hub or the dataset cannot be reached, breaks off, or has no such column.
    """
    import datasets

    name, _, revision = source.partition("@")
    try:
        dataset = datasets.load_dataset(name, name=subset, split=split, revision=revision or None, streaming=True)
        rows = iter(dataset)
    except Exception as error:  # the library, the hub and the network each have their own kinds
        raise DataError(
            f"{source}: no file or folder of this name is here, and as a dataset of the Hugging Face hub it cannot be opened: "
            f"{type(error).__name__}: {error} (without a network: download it elsewhere and name the folder with its "
            "parquet or jsonl files, or use python-docs or python-stdlib)"
        ) from error
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"{source}: reading broke off at row {number}: {type(error).__name__}: {error}") from error
        yield text_of(row, text_column, f"{source}: row {number}")
        number += 1
