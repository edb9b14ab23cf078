"""From texts with answers to token ids with a mark for each: which of them the model has to produce. Exact to the token.

A text is encoded as a whole, as inference engines do it. Where the ids of a prompt are not the first ids of the whole, a
token would reach over the boundary: the model could never be asked for its second half. There the text is encoded in parts,
so that the ids in front of an answer are those of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ironloom.data.chat.turns import Passage
from ironloom.errors import DataError

if TYPE_CHECKING:
    from ironloom.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Row:
    """A row of training data.

    Attributes:
        ids: The tokens.
        trained: 1 for each token that the model has to produce, 0 for the others.
        cuts: Boundaries of answers where a token would have reached over.
        weights: How much each token counts where it is trained; None: all 1.
    """

    ids: list[int]
    trained: list[int]
    cuts: int = 0
    weights: list[float] | None = None

    def part(self, kept: slice) -> Row:
        """A part of its tokens."""
        return Row(self.ids[kept], self.trained[kept], weights=None if self.weights is None else self.weights[kept])


def rows_of(passages: Sequence[Passage], tokenizer: Tokenizer) -> list[Row]:
    """The tokens of texts, and which of them are trained.

    Raises:
        DataError: If the tokenizer cannot keep an answer apart from what stands beside it.
    """
    texts = [text for passage in passages for text in (passage.text, *_fronts(passage))]
    encoded = iter(tokenizer.encode_batch(texts))
    rows = []
    for passage in passages:
        ids = next(encoded)
        fronts = [next(encoded) for _ in _boundaries(passage)]
        if all(ids[: len(front)] == front for front in fronts):
            rows.append(_row(passage, ids, list(map(len, fronts)), 0))
        else:
            rows.append(_in_parts(passage, tokenizer, ids))
    return rows


def _boundaries(passage: Passage) -> list[int]:
    """Where answers begin and end: start, stop, start, stop ..."""
    return [edge for answer in passage.answers for edge in (answer.start, answer.stop)]


def _fronts(passage: Passage) -> list[str]:
    return [passage.text[:edge] for edge in _boundaries(passage)]


def _in_parts(passage: Passage, tokenizer: Tokenizer, whole: list[int]) -> Row:
    """The row of a text that is encoded in parts where it has to be."""
    boundaries = _boundaries(passage)
    cuts: list[int] = []  # boundaries at which the text is cut
    ids: list[int] = []
    lengths: list[int] = []  # tokens in front of each boundary
    start = 0
    for edge in boundaries:
        # The part that has begun goes on as long as its boundaries are those of tokens.
        stop = next((other for other in boundaries if other > edge), len(passage.text))
        front, more = tokenizer.encode(passage.text[start:edge]), tokenizer.encode(passage.text[start:stop])
        lengths.append(len(ids) + len(front))
        if more[: len(front)] != front:
            cuts.append(edge)
            ids += front
            start = edge
    ids += tokenizer.encode(passage.text[start:])
    row = _row(passage, ids, lengths, len(cuts))
    prompt = tokenizer.encode(passage.text[: passage.answers[0].start])
    if tokenizer.decode(ids) != tokenizer.decode(whole) or ids[: len(prompt)] != prompt:
        edge = cuts[0] if cuts else boundaries[0]
        given, behind = passage.text[max(0, edge - 40) : edge], passage.text[edge : edge + 40]
        raise DataError(
            f"tokens reach over the boundary of an answer, and the tokenizer cannot encode its parts alone: ...{given!r} | {behind!r}... "
            "(another chat template may end the prompt with a special token or a line break)"
        )
    return row


def _row(passage: Passage, ids: list[int], lengths: list[int], cuts: int) -> Row:
    trained = [0] * len(ids)
    weights = None if all(answer.weight == 1 for answer in passage.answers) else [1.0] * len(ids)
    for answer, start, stop in zip(passage.answers, lengths[::2], lengths[1::2], strict=True):
        trained[start:stop] = [1] * (stop - start)
        if weights is not None:
            weights[start:stop] = [answer.weight] * (stop - start)
    return Row(ids, trained, cuts, weights)
