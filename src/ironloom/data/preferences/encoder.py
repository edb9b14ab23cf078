"""Pairs to the rows of a token store, two for each: rendered, marked, held to a length, counted."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import xxhash

from ironloom.data.chat.encoder import TooLong
from ironloom.data.chat.masks import Row
from ironloom.data.chat.render import ChatRenderer
from ironloom.data.preferences.records import Pair
from ironloom.data.store import Rows
from ironloom.errors import DataError

if TYPE_CHECKING:
    from ironloom.data.tokenizer import Tokenizer

_SHOWN = 5

DROPPED = "pairs with a row longer than the sequence length, left out"
ANSWERLESS = "pairs with an answer that does not fit into the sequence length, left out"
CUT = "pairs whose prompt was cut to the sequence length"
SEVERAL = "pairs with answers that the template renders otherwise once others follow, left out"
SAME = "pairs whose rows are equal once they are rendered, left out"


class PairEncoder:
    """Makes rows of pairs, the preferred one first; see :class:`ironloom.data.store.Encoder`.

    Args:
        tokenizer: Encodes.
        renderer: Renders, for this tokenizer.
        seq_length: Tokens that a model is given at most; a row has one more, which is only a target.
        too_long: What becomes of longer rows: ``left`` cuts as much off the beginning of both as the longer one needs. An
            answer that loses its end is another one, so with ``right``, as with ``drop``, the pair is left out.
    """

    columns: tuple[str, ...] = ("trained",)

    def __init__(self, tokenizer: Tokenizer, renderer: ChatRenderer, seq_length: int, too_long: TooLong):
        self._renderer = renderer
        self._length = seq_length + 1
        self._too_long = too_long
        self.vocab_size = tokenizer.vocab_size
        self.tokenizer = tokenizer.fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """See the class."""
        parts = ("pairs", self.tokenizer, self._renderer.fingerprint, self._length, self._too_long)
        return xxhash.xxh3_128_hexdigest(repr(parts).encode())

    def __call__(self, records: list[Any]) -> Rows:
        """The rows of pairs.

        Raises:
            DataError: For conversations that cannot be rendered, naming the first ones.
        """
        counts: dict[str, int] = {}
        rows: list[Row] = []
        wrong: list[str] = []
        for record in records:
            pair = Pair(*record)
            try:
                sides = [self._renderer.rows(side, pair.tools) for side in (pair.chosen, pair.rejected)]
            except DataError as error:
                wrong.append(f"{pair.place}: {error}")
                continue
            found: list[Row] | str = SEVERAL if any(len(side) > 1 for side in sides) else self._fitted(sides[0][0], sides[1][0])
            if isinstance(found, str):
                counts[found] = counts.get(found, 0) + 1
                continue
            if len(found[0].ids) < len(sides[0][0].ids):
                counts[CUT] = counts.get(CUT, 0) + 1
            rows += found
        if wrong:
            more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
            raise DataError("\n".join([f"{len(wrong):,} of the first {len(records):,} pairs cannot be used:", *wrong[:_SHOWN], *more]))
        return Rows.of([row.ids for row in rows], counts, trained=[row.trained for row in rows])

    def _fitted(self, chosen: Row, rejected: Row) -> list[Row] | str:
        """Both rows, cut if one is too long, or why the pair is left out."""
        if chosen.ids == rejected.ids:
            return SAME
        excess = max(len(chosen.ids), len(rejected.ids)) - self._length
        if excess <= 0:
            return [chosen, rejected]
        if self._too_long != "left":
            return DROPPED
        if any(1 in row.trained[: excess + 1] for row in (chosen, rejected)):  # the first token that is left is never a target
            return ANSWERLESS
        return [Row(row.ids[excess:], row.trained[excess:]) for row in (chosen, rejected)]
