"""Conversations to the rows of a token store: rendered, marked, held to a length, counted."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from ironloom.data.chat.masks import Row
from ironloom.data.chat.records import Conversation
from ironloom.data.chat.render import ChatRenderer
from ironloom.data.store import Rows
from ironloom.errors import DataError

if TYPE_CHECKING:
    from ironloom.data.tokenizer import Tokenizer

TooLong = Literal["drop", "left", "right"]
_SHOWN = 5

NOTHING = "conversations without an answer to train on, left out"
DROPPED = "rows longer than the sequence length, left out"
ANSWERLESS = "rows whose answer does not fit into the sequence length, left out"
CUT = "rows cut to the sequence length"
SEPARATE = "answers in rows of their own, because the template renders them otherwise once others follow"
BOUNDARIES = "boundaries of answers at which the text is encoded in parts"


class RowEncoder(abc.ABC):
    """Makes rows of records; see :class:`ironloom.data.store.Encoder`.

    Args:
        tokenizer: Encodes.
        renderer: Renders, for this tokenizer.
        seq_length: Tokens that a model is given at most; a row has one more, which is only a target.
        too_long: What becomes of longer rows.

    Attributes:
        what: What the records are, for messages.
    """

    columns: tuple[str, ...] = ("trained",)
    what: str

    def __init__(self, tokenizer: Tokenizer, renderer: ChatRenderer, seq_length: int, too_long: TooLong):
        self._renderer = renderer
        self._length = seq_length + 1
        self._too_long = too_long
        self.vocab_size = tokenizer.vocab_size
        self.tokenizer = tokenizer.fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """See the class."""
        parts = (self.what, self.tokenizer, self._renderer.fingerprint, self._length, self._too_long)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def __call__(self, records: list[Any]) -> Rows:
        """The rows of records.

        Raises:
            DataError: For those that cannot be rendered, naming the first ones.
        """
        counts: dict[str, int] = {}
        rows: list[Row] = []
        wrong: list[str] = []
        for record in records:
            try:
                rows += self.rows_of(record, counts)
            except DataError as error:
                wrong.append(f"{record[-1]}: {error}")
        if wrong:
            raise _refusal(wrong, len(records), self.what)
        columns: dict[str, list[list[Any]]] = {"trained": [row.trained for row in rows]}
        if any(row.weights is not None for row in rows):
            columns["weights"] = [
                [weight if counts else 1.0 for weight, counts in zip(row.weights or row.trained, row.trained, strict=True)] for row in rows
            ]
        return Rows.of([row.ids for row in rows], counts, **columns)

    @abc.abstractmethod
    def rows_of(self, record: Any, counts: dict[str, int]) -> Iterable[Row]:
        """The rows of one record, whose last field is its place; what is left out or changed is counted.

        Raises:
            DataError: If it cannot be rendered.
        """


class ChatEncoder(RowEncoder):
    """Makes rows of conversations. Of those that are too long ``drop`` leaves all out, ``left`` and ``right`` cut that side off.

    A row is left out too if no trained answer in it stays whole.
    """

    what = "conversations"

    def rows_of(self, record: Any, counts: dict[str, int]) -> Iterable[Row]:
        """See the base class."""
        conversation = Conversation(*record)
        found = self._renderer.rows(conversation.messages, conversation.tools)
        count(counts, NOTHING, not found)
        count(counts, SEPARATE, len(found) - 1)
        count(counts, BOUNDARIES, sum(row.cuts for row in found))
        return [fitting for row in found if (fitting := self._fitted(row, counts)) is not None]

    def _fitted(self, row: Row, counts: dict[str, int]) -> Row | None:
        """The row, cut if it is too long; None if it is left out."""
        excess = len(row.ids) - self._length
        if excess <= 0:
            return row
        if self._too_long == "drop":
            count(counts, DROPPED, 1)
            return None
        kept = slice(excess, None) if self._too_long == "left" else slice(0, self._length)
        if not _has_whole_answer(row.trained, kept):
            count(counts, ANSWERLESS, 1)
            return None
        count(counts, CUT, 1)
        part = row.part(kept)
        place = 0
        while self._too_long == "left" and part.trained[place]:  # the rest of an answer whose beginning is gone
            part.trained[place] = 0
            place += 1
        return part


def _has_whole_answer(trained: list[int], kept: slice) -> bool:
    """Whether a run of trained tokens lies wholly within the part that is kept; the first token kept is never a target."""
    first, end, _ = kept.indices(len(trained))
    place = first
    while place < end:
        if not trained[place]:
            place += 1
            continue
        stop = place
        while stop < len(trained) and trained[stop]:
            stop += 1
        if place > first and stop <= end:
            return True
        place = stop
    return False


def count(counts: dict[str, int], what: str, number: int) -> None:
    """Add to what is counted; nothing for none."""
    if number > 0:
        counts[what] = counts.get(what, 0) + number


def _refusal(wrong: list[str], total: int, what: str) -> DataError:
    if len(wrong) == 1:
        return DataError(wrong[0])
    more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
    return DataError("\n".join([f"{len(wrong):,} of the first {total:,} {what} cannot be used:", *wrong[:_SHOWN], *more]))
