"""Stores of documents that a test names token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ironloom.data.preparation import build_store
from ironloom.data.preparation.records import Counted
from ironloom.data.store import Rows, TokenStore


class Given:
    """An encoder of numbers to the documents that are given under them.

    Args:
        documents: The ids of each.
        trained: Which of them a model has to produce; None: all.
    """

    tokenizer = "none"
    vocab_size = 1 << 16

    def __init__(self, documents: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]] | None = None):
        self._documents, self._trained = documents, trained
        self.columns: tuple[str, ...] = () if trained is None else ("trained",)
        self.fingerprint = repr((documents, trained))

    def __call__(self, records: list[int]) -> Rows:
        marks = {} if self._trained is None else {"trained": [list(self._trained[number]) for number in records]}
        return Rows.of([list(self._documents[number]) for number in records], **marks)


def store_of(folder: Path, documents: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]] | None = None) -> TokenStore:
    """The store of some documents."""
    return build_store(Counted(lambda: iter(range(len(documents)))), Given(documents, trained), "given", cache_dir=folder)
