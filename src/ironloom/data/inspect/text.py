"""Samples as text to look at: what is trained, which tokens are special, where documents meet in a row."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ironloom.data.store import TokenStore
from ironloom.data.tokenizer import Tokenizer

_HEAD, _TAIL = 96, 32  # tokens that are shown of a long run
_MOST = 64  # runs that are shown of a document
_BEGINNING = 48  # tokens that name a document

_CUT = "\N{REPLACEMENT CHARACTER}"  # what is left of a character of which some bytes are cut off


@dataclass(frozen=True)
class Segment:
    """A run of tokens that have the same part to play.

    Attributes:
        kind: ``text``; ``special`` for special tokens; ``gap`` where tokens are not shown.
        trained: Whether the model has to produce them.
        tokens: How many they are.
        text: What they say, as it is; empty for a gap.
        weight: How much each of them counts in the loss, if it is trained.
    """

    kind: Literal["text", "special", "gap"]
    trained: bool
    tokens: int
    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Sample:
    """A document of a store to look at.

    Attributes:
        document: Its number in the store.
        label: Which of the documents of its sample it is, such as ``chosen``; empty if it is the only one.
        tokens: How many it has.
        segments: What stands in it, from its beginning on.
    """

    document: int
    label: str
    tokens: int
    segments: list[Segment]


class Reader:
    """Makes text of the documents of stores.

    Args:
        tokenizer: What made the stores.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        spelt = (tokenizer.encode(text) for text in tokenizer.control_tokens)
        self._special = np.array([ids[0] for ids in spelt if len(ids) == 1], dtype=np.int64)

    def sample(self, store: TokenStore, document: int, label: str = "") -> Sample:
        """A document with its parts; long runs and long documents are shown in part."""
        begin, end = int(store.offsets[document]), int(store.offsets[document + 1])
        ids = np.asarray(store.tokens[begin:end]).astype(np.int64)
        trained = np.ones(len(ids), dtype=bool) if store.trained is None else np.asarray(store.trained[begin:end]) == 1
        special = np.isin(ids, self._special)
        weights = np.ones(len(ids)) if store.weights is None else np.where(trained, store.weights[begin:end], 1.0)
        changes = (np.diff(special * 2 + trained) != 0) | (np.diff(weights) != 0)
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(ids)]
        segments: list[Segment] = []
        for start, stop in itertools.pairwise(edges):
            if len(segments) >= _MOST:
                segments.append(Segment("gap", False, len(ids) - start, ""))
                break
            kind: Literal["text", "special"] = "special" if special[start] else "text"
            segments += self._run(ids[start:stop].tolist(), bool(trained[start]), kind, float(weights[start]))
        return Sample(document, label, len(ids), segments)

    def beginning(self, store: TokenStore, document: int) -> str:
        """How a document begins."""
        return self.text(store, int(store.offsets[document]), int(store.offsets[document + 1]))

    def text(self, store: TokenStore, start: int, stop: int) -> str:
        """How a range of tokens begins."""
        text = self._tokenizer.decode(np.asarray(store.tokens[start : min(stop, start + _BEGINNING)]).tolist())
        return text if stop - start <= _BEGINNING else f"{text.rstrip(_CUT)}..."

    def _run(self, ids: list[int], trained: bool, kind: Literal["text", "special"], weight: float) -> list[Segment]:
        if not ids:
            return []
        if len(ids) <= _HEAD + _TAIL:
            return [Segment(kind, trained, len(ids), self._tokenizer.decode(ids), weight)]
        head, tail = self._tokenizer.decode(ids[:_HEAD]).rstrip(_CUT), self._tokenizer.decode(ids[-_TAIL:]).lstrip(_CUT)
        left_out = Segment("gap", trained, len(ids) - _HEAD - _TAIL, "", weight)
        return [Segment(kind, trained, _HEAD, head, weight), left_out, Segment(kind, trained, _TAIL, tail, weight)]


def spread(total: int, wanted: int) -> list[int]:
    """As many numbers below ``total``, evenly apart."""
    wanted = min(total, wanted)
    return [(2 * number + 1) * total // (2 * wanted) for number in range(wanted)]


def visible(text: str) -> str:
    """Text in which a terminal finds no command: what cannot be printed, but line breaks, is spelt out."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode() for character in text
    )
