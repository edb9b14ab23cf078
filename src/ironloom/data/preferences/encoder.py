"""Pairs to the rows of a token store, two for each: rendered, marked, held to a length, counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ironloom.data.chat.encoder import RowEncoder, count
from ironloom.data.chat.masks import Row
from ironloom.data.preferences.records import Pair

DROPPED = "pairs with a row longer than the sequence length, left out"
ANSWERLESS = "pairs with an answer that does not fit into the sequence length, left out"
CUT = "pairs whose prompt was cut to the sequence length"
SEVERAL = "pairs with answers that the template renders otherwise once others follow, left out"
SAME = "pairs whose rows are equal once they are rendered, left out"


class PairEncoder(RowEncoder):
    """Makes rows of pairs, the preferred one first.

    Where one is too long, ``left`` cuts as much off the beginning of both as the longer one needs. An answer that loses its end
    is another one, so with ``right``, as with ``drop``, the pair is left out.
    """

    what = "pairs"

    def rows_of(self, record: Any, counts: dict[str, int]) -> Iterable[Row]:
        """See the base class."""
        pair = Pair(*record)
        sides = [self._renderer.rows(side, pair.tools) for side in (pair.chosen, pair.rejected)]
        found = SEVERAL if any(len(side) > 1 for side in sides) else self._fitted(sides[0][0], sides[1][0])
        if isinstance(found, str):
            count(counts, found, 1)
            return []
        count(counts, CUT, len(found[0].ids) < len(sides[0][0].ids))
        return found

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
        return [row.part(slice(excess, None)) for row in (chosen, rejected)]
