"""Records from where they lie: files, folders, the built-in ones, datasets on the Hugging Face hub."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from ironloom.data.chat.docstrings import RECORDS
from ironloom.data.chat.records import Conversation, conversation_of
from ironloom.data.corpus import fingerprint, gathered_errors, read_marked
from ironloom.data.entries import Datasets
from ironloom.data.extent import Extent
from ironloom.errors import DataError
from ironloom.settings.groups import DatasetEntry

Item = TypeVar("Item")


@dataclass(frozen=True)
class RecordSource(abc.ABC, Generic[Item]):
    """Datasets of records, read one after the other; see ``preparation.Source``.

    Attributes:
        entries: The settings of each.
        what: What the records are, for messages.
        builtin: The built-in ones by name: what gives them, and what gives their version.
    """

    entries: tuple[DatasetEntry, ...]

    what: ClassVar[str]
    builtin: ClassVar[Mapping[str, tuple[Callable[[], Iterator[Any]], Callable[[], str]]]]

    @classmethod
    def of(cls, datasets: Datasets) -> Self:
        """From entries that ``entries.entry_problems`` finds right."""
        return cls(
            tuple(DatasetEntry(dataset_path=entry) if isinstance(entry, str) else DatasetEntry.from_mapping(entry) for entry in datasets)
        )

    @abc.abstractmethod
    def item_of(self, fields: Any, place: str, entry: DatasetEntry) -> Item:
        """What a record says.

        Raises:
            DataError: If it is wrong.
        """

    @abc.abstractmethod
    def said_in(self, item: Item) -> Iterator[str]:
        """What is said in it, each text once."""

    @abc.abstractmethod
    def columns_of(self, entry: DatasetEntry) -> str:
        """The columns that are read, as a part of :meth:`key`."""

    def read(self, mark: Any) -> Iterator[tuple[Item, Any]]:
        """The items behind a mark, each with the mark of what follows it.

        Raises:
            DataError: Naming file and line of what is wrong; where many records are wrong, their number.
        """
        start, *inner = mark or (0,)
        for number in range(start, len(self.entries)):
            entry = self.entries[number]
            try:
                rows = self._records(entry, inner or None)
                for record, place in rows:
                    found = self.checked(record, entry)
                    if isinstance(found, DataError):
                        raise gathered_errors(found, self._rest(rows, entry))
                    yield found, (number, *place)
            except DataError as error:
                if entry.name is None:
                    raise
                raise DataError(f"{entry.name}: {error}") from error
            inner = []

    @functools.cached_property
    def _extent(self) -> Extent:
        return Extent((str(entry.dataset_path or entry.source), entry.max_samples) for entry in self.entries)

    def fraction(self, mark: Any) -> float | None:
        """See ``preparation.Source``."""
        return self._extent.fraction(mark)

    def texts(self) -> Iterator[str]:
        """What is said in each record: what a tokenizer is trained on."""
        for item, _ in self.read(None):
            yield "\n\n".join(self.said_in(item))

    def key(self) -> str:
        """What identifies the records."""
        return ",".join(f"{self._identity(entry)}:{self.columns_of(entry)}" for entry in self.entries)

    def _records(self, entry: DatasetEntry, mark: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of place and record, with marks."""
        source = str(entry.dataset_path or entry.source)
        if source in self.builtin:
            start = mark[0] if mark else 0
            records = itertools.islice(self.builtin[source][0](), start, entry.max_samples)
            return (((f"{source}: record {number}", record), (number + 1,)) for number, record in enumerate(records, start=start))
        return read_marked(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples, mark=mark)

    def _rest(self, rows: Iterator[tuple[Any, Any]], entry: DatasetEntry) -> Iterator[Item | DataError]:
        """What follows, to be counted; what cannot be read ends it."""
        try:
            for record, _ in rows:
                yield self.checked(record, entry)
        except DataError as error:
            yield error

    def checked(self, record: Any, entry: DatasetEntry) -> Item | DataError:
        """What a record says, or what is wrong with it."""
        if isinstance(record, DataError):
            return record
        if not isinstance(record, tuple) or isinstance(record[1], str):
            return DataError(f"{entry.dataset_path or entry.source}: holds plain texts, no records of {self.what}")
        place, fields = record
        try:
            return self.item_of(fields, place, entry)
        except DataError as error:
            return error

    def _identity(self, entry: DatasetEntry) -> str:
        source = str(entry.dataset_path or entry.source)
        if source in self.builtin:
            return f"{self.builtin[source][1]()}:{entry.max_samples}"
        return fingerprint(source, text_column=None, split=entry.split, subset=entry.subset, max_samples=entry.max_samples)


class Conversations(RecordSource[Conversation]):
    """Datasets of conversations."""

    what = "conversations"
    builtin = RECORDS

    def item_of(self, fields: Any, place: str, entry: DatasetEntry) -> Conversation:
        """See the base class."""
        return conversation_of(fields, place, entry.messages_column)

    def said_in(self, item: Conversation) -> Iterator[str]:
        """See the base class."""
        return (str(message["content"]) for message in item.messages)

    def columns_of(self, entry: DatasetEntry) -> str:
        """See the base class."""
        return str(entry.messages_column)
