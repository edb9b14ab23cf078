"""What becomes of a text: its ids and the end token."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

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
        self._may_be_fast = fast
        self._end: int = tokenizer.eos_token_id
        self.vocab_size = tokenizer.vocab_size
        self.tokenizer = tokenizer.fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """See the class."""
        return xxhash.xxh3_128_hexdigest(f"text:{self.tokenizer}:{self._end}".encode())

    @property
    def is_fast(self) -> bool:
        """Whether the fast tokenizer does it."""
        return self._may_be_fast and self._tokenizer.is_fast

    def slower(self) -> TextEncoder:
        """The same encoder without the fast tokenizer."""
        return TextEncoder(self._tokenizer, fast=False)

    def __call__(self, records: list[Any]) -> Rows:
        """The ids of each text, and the end token; ids that another program has prepared are taken as they are."""
        texts = [record for record in records if isinstance(record, str)]
        ids, lengths = self._tokenizer.encode_flat(texts, fast=self._may_be_fast)
        tokens, lengths = np.insert(ids, np.cumsum(lengths), self._end), lengths + 1
        if len(texts) == len(records):
            return Rows(tokens, lengths)
        made = iter(np.split(tokens, np.cumsum(lengths)))
        documents = [next(made) if isinstance(record, str) else self._ended(record) for record in records]
        return Rows(np.concatenate(documents), np.array([len(document) for document in documents], dtype=np.int64))

    def _ended(self, ids: NDArray[Any]) -> NDArray[Any]:
        return ids if ids[-1] == self._end else np.append(ids.astype(np.uint32), self._end)
