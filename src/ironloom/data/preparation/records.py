"""Records in a fixed order, which can be entered again where a killed process stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

_BATCH_RECORDS = 2048
_BATCH_SIZE = 1 << 20  # characters that one batch has at least, unless it has that many records


class Source(Protocol):
    """What is read."""

    def read(self, mark: Any) -> Iterator[tuple[Any, Any]]:
        """The records behind a mark, each with the mark of what follows it.

        Args:
            mark: None for the beginning, else a mark that an earlier call gave. Marks are plain JSON.

        Yields:
            A record (for an encoder; picklable) and the mark with which reading goes on behind it.
        """

    def fraction(self, mark: Any) -> float | None:
        """How much of it lies before a mark, from 0 to 1; None where that is not known."""


class Counted:
    """A source that can only be read from its beginning; its mark is the number of records.

    Args:
        records: Gives the records, the same ones in the same order each time.
    """

    def __init__(self, records: Callable[[], Iterator[Any]]):
        self._records = records

    def read(self, mark: Any) -> Iterator[tuple[Any, Any]]:
        """See :class:`Source`."""
        for number, record in enumerate(self._records(), start=1):
            if number > (mark or 0):
                yield record, number

    def fraction(self, mark: Any) -> None:
        """See :class:`Source`: what is to come is not known."""


def batches(records: Iterator[tuple[Any, Any]], size: Callable[[Any], int]) -> Iterator[tuple[list[Any], Any]]:
    """Records in lists of bounded size, each with its last mark; a record larger than the bound is a list of its own.

    Args:
        records: Records with marks.
        size: About how many characters a record has.
    """
    batch: list[Any] = []
    total, mark = 0, None
    for record, mark in records:
        batch.append(record)
        total += size(record)
        if len(batch) >= _BATCH_RECORDS or total >= _BATCH_SIZE:
            yield batch, mark
            batch, total = [], 0
    if batch:
        yield batch, mark


def size_of(record: Any) -> int:
    """About how many characters a record has; texts in lists and mappings are counted."""
    if isinstance(record, str | bytes | np.ndarray):
        return len(record)
    if isinstance(record, dict):
        return sum(map(size_of, record.values()))
    if isinstance(record, list | tuple):
        return sum(map(size_of, record))
    return 8


def peek(batches: Iterator[Any], weights: Callable[[Any], int], enough: int) -> tuple[list[Any], Iterator[Any]]:
    """The first batches until they weigh ``enough``, and the whole iterator again."""
    first, weight = [], 0
    for batch in batches:
        first.append(batch)
        weight += weights(batch)
        if weight >= enough:
            break
    return first, itertools.chain(first, batches)
