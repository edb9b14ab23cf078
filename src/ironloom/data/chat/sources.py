"""Conversations from where they lie: files, folders, the built-in ones, datasets on the Hugging Face hub."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ironloom.data.chat.docstrings import RECORDS
from ironloom.data.chat.records import Conversation, conversation_of
from ironloom.data.corpus import fingerprint, gathered_errors, read_marked
from ironloom.data.entries import Datasets
from ironloom.errors import DataError
from ironloom.settings.groups import DatasetEntry


@dataclass(frozen=True)
class Conversations:
    """Datasets of conversations, read one after the other; see ``preparation.Source``.

    Attributes:
        entries: The settings of each.
    """

    entries: tuple[DatasetEntry, ...]

    @classmethod
    def of(cls, datasets: Datasets) -> Conversations:
        """From entries that ``entries.entry_problems`` finds right."""
        return cls(
            tuple(DatasetEntry(dataset_path=entry) if isinstance(entry, str) else DatasetEntry.from_mapping(entry) for entry in datasets)
        )

    def read(self, mark: Any) -> Iterator[tuple[Conversation, Any]]:
        """The conversations behind a mark, each with the mark of what follows it.

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
        """What is said in each conversation: what a tokenizer is trained on."""
        for conversation, _ in self.read(None):
            yield "\n\n".join(message["content"] for message in conversation.messages)

    def key(self) -> str:
        """What identifies the conversations."""
        return ",".join(f"{_identity(entry)}:{entry.messages_column}" for entry in self.entries)


def _records(entry: DatasetEntry, mark: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of place and record, with marks."""
    source = str(entry.dataset_path or entry.source)
    if source in RECORDS:
        start = mark[0] if mark else 0
        records = itertools.islice(RECORDS[source][0](), start, entry.max_samples)
        return (((f"{source}: record {number}", record), (number + 1,)) for number, record in enumerate(records, start=start))
    return read_marked(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples, mark=mark)


def _rest(rows: Iterator[tuple[Any, Any]], entry: DatasetEntry) -> Iterator[Conversation | DataError]:
    """What follows, to be counted; what cannot be read ends it."""
    try:
        for record, _ in rows:
            yield _checked(record, entry)
    except DataError as error:
        yield error


def _checked(record: Any, entry: DatasetEntry) -> Conversation | DataError:
    """The conversation in a record, or what is wrong with it."""
    if isinstance(record, DataError):
        return record
    if not isinstance(record, tuple) or isinstance(record[1], str):
        return DataError(f"{entry.dataset_path or entry.source}: holds plain texts, no records of conversations")
    place, fields = record
    try:
        return conversation_of(fields, place, entry.messages_column)
    except DataError as error:
        return error


def _identity(entry: DatasetEntry) -> str:
    source = str(entry.dataset_path or entry.source)
    if source in RECORDS:
        return f"{RECORDS[source][1]()}:{entry.max_samples}"
    return fingerprint(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples)
