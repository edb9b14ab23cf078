"""What is wrong with the records of sources: all of it, where preparing them ends with the first that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ironloom.data.chat.sources import RecordSource
from ironloom.data.corpus import parts
from ironloom.data.entries import Corpus
from ironloom.data.store import Progress
from ironloom.errors import DataError

SHOWN = 20
_EVERY = 1000  # records between two reports


@dataclass
class Broken:
    """What was found in the records of a list of datasets.

    Attributes:
        records: Records that were read, those included that are wrong.
        wrong: Records that are wrong.
        empty: Records without any text, which are left out.
        shown: What is wrong with the first of them, with file and line.
        unreadable: Files and datasets that could not be read, or not to their end, and why.
    """

    records: int = 0
    wrong: int = 0
    empty: int = 0
    shown: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class _UnreadableError(DataError):
    """What is wrong with a file, not with a record: what stands behind it there is not known."""


def broken_in(source: Corpus | RecordSource[Any], progress: Progress | None = None, encode: Callable[[Any], Any] | None = None) -> Broken:
    """Read everything that can be read of a source.

    Args:
        source: Datasets, one after the other.
        encode: Called with each record that can be read; raises ``DataError`` for those that are wrong nevertheless.
        progress: Called now and then with the number of records read.
    """
    found = Broken()
    for record in _records(source):
        if isinstance(record, _UnreadableError):
            found.unreadable.append(str(record))
            continue
        found.records += 1
        record = record if encode is None or isinstance(record, DataError) else _encoded(record, encode)
        if isinstance(record, DataError):
            found.wrong += 1
            if len(found.shown) < SHOWN:
                found.shown.append(str(record))
        elif not len(record):
            found.empty += 1
        if progress is not None and found.records % _EVERY == 0:
            progress(found.records, "looking for broken records")
    return found


def _encoded(record: Any, encode: Callable[[Any], Any]) -> Any:
    """The record, or what is wrong with it once it is encoded."""
    try:
        encode(record)
    except DataError as error:
        return DataError(f"{record[-1]}: {error}")
    return record


def _records(source: Corpus | RecordSource[Any]) -> Iterator[Any]:
    """Every record of a source, or what is wrong with it."""
    if isinstance(source, Corpus):
        for arguments in source.sources:
            yield from _limited(
                _read(**{key: value for key, value in arguments.items() if key != "max_samples"}), arguments.get("max_samples")
            )
        return
    for entry in source.entries:
        name = str(entry.dataset_path or entry.source)
        read = source.builtin[name][0] if name in source.builtin else None
        if read is not None:
            rows: Iterator[Any] = ((f"{name}: record {number}", record) for number, record in enumerate(read()))
        else:
            rows = _read(name, text_column=None, split=entry.split, subset=entry.subset)
        checked = (row if isinstance(row, _UnreadableError) else source.checked(row, entry) for row in rows)
        yield from _limited(checked, entry.max_samples)


def _read(source: str, text_column: str | None = "text", split: str = "train", subset: str | None = None) -> Iterator[Any]:
    """The records of one dataset; of a file that ends early the reason stands in the place of the rest."""
    try:
        found = parts(source, text_column, split, subset)
    except DataError as error:
        yield _UnreadableError(str(error))
        return
    for part in found:
        try:
            yield from part(0)
        except DataError as error:
            yield _UnreadableError(str(error))


def _limited(records: Iterator[Any], most: int | None) -> Iterator[Any]:
    """Records until as many as are wanted are good; without a limit all."""
    good = 0
    for record in records:
        if good == most:
            return
        yield record
        good += not isinstance(record, DataError) and len(record) > 0
