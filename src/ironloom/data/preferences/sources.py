"""Preferences from where they lie: files, folders, the built-in ones, datasets on the Hugging Face hub."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ironloom.data.corpus import fingerprint, gathered_errors, read_marked
from ironloom.data.preferences.docstrings import PAIRS
from ironloom.data.preferences.records import Pair, pair_of
from ironloom.errors import DataError
from ironloom.settings.groups import DatasetEntry


@dataclass(frozen=True)
class Preferences:
    """Datasets of preferences, read one after the other; see ``preparation.Source``.

    Attributes:
        entries: The settings of each.
    """

    entries: tuple[DatasetEntry, ...]

    def read(self, mark: Any) -> Iterator[tuple[Pair, Any]]:
        """The pairs behind a mark, each with the mark of what follows it.

        Raises:
            DataError: Naming file and line of what is wrong; where many records are wrong, their number.
        """
        start, *inner = mark or (0,)
        for number in range(start, len(self.entries)):
            entry = self.entries[number]
            try:
                rows = _records(entry, inner or None)
                for record, place in rows:
                    found = _checked(record, entry)
                    if isinstance(found, DataError):
                        raise gathered_errors(found, _rest(rows, entry))
                    yield found, (number, *place)
            except DataError as error:
                if entry.name is None:
                    raise
                raise DataError(f"{entry.name}: {error}") from error
            inner = []

    def texts(self) -> Iterator[str]:
        """What is said in each pair, what is common once: what a tokenizer is trained on."""
        for pair, _ in self.read(None):
            own = [turn for turn in pair.rejected if turn["train"]]
            yield "\n\n".join(str(turn["content"]) for turn in (*pair.chosen, *own))

    def key(self) -> str:
        """What identifies the pairs."""
        return ",".join(f"{_identity(entry)}:{_columns(entry)}:{entry.messages_column}" for entry in self.entries)


def _columns(entry: DatasetEntry) -> tuple[str, str]:
    return entry.chosen_column or "chosen", entry.rejected_column or "rejected"


def _records(entry: DatasetEntry, mark: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of place and record, with marks."""
    source = str(entry.dataset_path or entry.source)
    if source in PAIRS:
        start = mark[0] if mark else 0
        records = itertools.islice(PAIRS[source][0](), start, entry.max_samples)
        return (((f"{source}: record {number}", record), (number + 1,)) for number, record in enumerate(records, start=start))
    return read_marked(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples, mark=mark)


def _rest(rows: Iterator[tuple[Any, Any]], entry: DatasetEntry) -> Iterator[Pair | DataError]:
    """What follows, to be counted; what cannot be read ends it."""
    try:
        for record, _ in rows:
            yield _checked(record, entry)
    except DataError as error:
        yield error


def _checked(record: Any, entry: DatasetEntry) -> Pair | DataError:
    """The pair in a record, or what is wrong with it."""
    if isinstance(record, DataError):
        return record
    if not isinstance(record, tuple) or isinstance(record[1], str):
        return DataError(f"{entry.dataset_path or entry.source}: holds plain texts, no records of preferences")
    place, fields = record
    try:
        return pair_of(fields, place, _columns(entry), entry.messages_column)
    except DataError as error:
        return error


def _identity(entry: DatasetEntry) -> str:
    source = str(entry.dataset_path or entry.source)
    if source in PAIRS:
        return f"{PAIRS[source][1]()}:{entry.max_samples}"
    return fingerprint(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples)
