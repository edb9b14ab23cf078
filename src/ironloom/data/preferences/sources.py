"""Preferences from where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.data.chat.sources import RecordSource
from ironloom.data.preferences.docstrings import PAIRS
from ironloom.data.preferences.records import Pair, pair_of
from ironloom.settings.groups import DatasetEntry


class Preferences(RecordSource[Pair]):
    """Datasets of preferences."""

    what = "preferences"
    builtin = PAIRS

    def item_of(self, fields: Any, place: str, entry: DatasetEntry) -> Pair:
        """See the base class."""
        return pair_of(fields, place, _sides(entry), entry.messages_column)

    def said_in(self, item: Pair) -> Iterator[str]:
        """See the base class; what both sides have in common is said once."""
        own = [turn for turn in item.rejected if turn["train"]]
        return (str(turn["content"]) for turn in (*item.chosen, *own))

    def columns_of(self, entry: DatasetEntry) -> str:
        """See the base class."""
        return f"{_sides(entry)}:{entry.messages_column}"


def _sides(entry: DatasetEntry) -> tuple[str, str]:
    return entry.chosen_column or "chosen", entry.rejected_column or "rejected"
