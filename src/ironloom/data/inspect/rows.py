"""How documents share the rows of a batch: what each way of packing gives, and where documents meet in a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ironloom.data.inspect.text import Reader
from ironloom.data.packing import Window, windows
from ironloom.data.store import TokenStore


@dataclass(frozen=True)
class Packing:
    """What a way of packing makes of a store.

    Attributes:
        kind: ``none``: each document has a row of its own, and what is beyond a row is lost; ``concat``: one after the other, cut
            where a row ends; ``best_fit``: whole documents share a row, see ``data.packing``.
        rows: How many rows there are.
        fill: Share of their places that hold a token.
        cut: Documents that are not whole in one row.
    """

    kind: Literal["none", "concat", "best_fit"]
    rows: int
    fill: float
    cut: int


@dataclass(frozen=True)
class Piece:
    """What a row has of one document: which tokens of it, and how these begin."""

    document: int
    start: int
    tokens: int
    text: str


@dataclass(frozen=True)
class Row:
    """A row of several documents, or of pieces of them, to look at."""

    row: int
    pieces: list[Piece]


def packings(store: TokenStore, unit: int, seq_length: int) -> Iterator[Packing]:
    """What the ways of packing give, as far as a store can be packed that way."""
    given = np.diff(store.offsets) - (store.trained is not None)  # the last token of a row of its own is only a target
    if len(given):
        fill = float(np.minimum(given, seq_length).mean() / seq_length)
        yield Packing("none", len(given), fill, int((given > seq_length).sum()))
    if store.trained is None and unit == 1 and store.num_tokens > seq_length:
        rows = (store.num_tokens - 1) // seq_length
        yield Packing("concat", rows, 1.0, _cut(store.offsets, seq_length, rows))
    if unit == 1:
        found = list(map(_best_fit, windows(store.offsets, 0, store.num_documents, seq_length, keep_last=False)))
        rows, tokens, cut = np.sum(found, axis=0).tolist() if found else (0, 0, 0)
        if rows:
            yield Packing("best_fit", rows, tokens / (rows * seq_length), cut)


def _best_fit(window: Window) -> tuple[int, int, int]:
    """Rows, tokens in them, and documents that are longer than one."""
    return len(window.counts), int(window.sizes.sum()), window.cut


def _cut(offsets: NDArray[np.int64], seq_length: int, rows: int) -> int:
    """Documents over an edge between two rows, or over the end of the last row."""
    edges = seq_length * np.arange(1, rows + 1, dtype=np.int64)
    holding = np.searchsorted(offsets, edges, side="right") - 1
    over = holding[(offsets[np.minimum(holding, len(offsets) - 1)] < edges) & (holding < len(offsets) - 1)]
    return len(np.unique(over))


def concatenated(store: TokenStore, row: int, seq_length: int, reader: Reader) -> Row:
    """A row of documents one after the other."""
    begin, end = row * seq_length, min((row + 1) * seq_length, store.num_tokens)
    first, last = np.searchsorted(store.offsets, [begin, end - 1], side="right") - 1
    pieces = []
    for document in range(int(first), int(last) + 1):
        start, stop = max(begin, int(store.offsets[document])), min(end, int(store.offsets[document + 1]))
        pieces.append(Piece(document, start - int(store.offsets[document]), stop - start, reader.text(store, start, stop)))
    return Row(row, pieces)
