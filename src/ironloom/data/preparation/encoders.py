"""What becomes of a text: its ids and the end token."""

from __future__ import annotations

import functools

import numpy as np
import xxhash

from ironloom.data.store import Rows
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError


class TextEncoder:
    """Texts to documents, each with the tokenizer's end token; see :class:`ironloom.data.store.Encoder`.

    Args:
        tokenizer: Turns texts into ids.
        fast: Whether the fast tokenizer may do it; the ids are the same.

    Raises:
        DataError: If the tokenizer has no end token.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, tokenizer: Tokenizer, fast: bool = True):
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end token: set eos_token in its tokenizer_config.json")
        self._tokenizer = tokenizer
        self._is_fast = fast
        self._end: int = tokenizer.eos_token_id
        self.vocab_size = tokenizer.vocab_size
        self.tokenizer = tokenizer.fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """See the class."""
        return xxhash.xxh3_128_hexdigest(f"text:{self.tokenizer}:{self._end}".encode())

    def slower(self) -> TextEncoder:
        """The same encoder without the fast tokenizer."""
        return TextEncoder(self._tokenizer, fast=False)

    def __call__(self, records: list[str]) -> Rows:
        """The ids of each text, and the end token."""
        ids, lengths = self._tokenizer.encode_flat(records, fast=self._is_fast)
        ends = np.cumsum(lengths)
        return Rows(np.insert(ids, ends, self._end), lengths + 1)
