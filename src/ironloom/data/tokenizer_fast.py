"""Fast tokenization by the optional package ``gigatoken``, held against the library ``tokenizers``, which is always right.

It is used only where it agrees: on texts chosen to be difficult before the first text, and on a sample of every batch.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import tokenizers
import xxhash
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_SAMPLE = 2048  # characters of each batch that both encode: a fraction of a per cent


class TokenizersDiffer(Exception):
    """The fast tokenizer gave other ids for some text: everything it has made is to be made again."""


class FastTokenizer:
    """Ids of many texts at a time, equal to those of a tokenizer.

    Args:
        fast: The tokenizer of ``gigatoken``.
        reference: The tokenizer of ``tokenizers``.
    """

    def __init__(self, fast: Any, reference: tokenizers.Tokenizer):
        self._fast = fast
        self._reference = reference

    @classmethod
    def of(cls, reference: tokenizers.Tokenizer) -> FastTokenizer | None:
        """The fast form of a tokenizer; None if the package is not installed, cannot do it, or gives other ids."""
        try:
            import gigatoken
        except ImportError:
            return None
        try:
            found = cls(gigatoken.Tokenizer.from_json(reference.to_str()), reference)
            texts = difficult_texts(reference)
            found.compare(texts, *found.encode(texts, parallel=False))
        except TokenizersDiffer as difference:
            log.info("gigatoken does not give this tokenizer's ids (%s); tokenizers is used", difference)
            return None
        except BaseException as error:  # a Rust library: what it cannot load it refuses in many ways, panics among them
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            log.info("gigatoken cannot load this tokenizer (%s: %s); tokenizers is used", type(error).__name__, error)
            return None
        return found

    def encode(self, texts: list[str], parallel: bool | None = None) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all texts one after the other, and the number of ids of each."""
        layout = self._fast.encode_batch(texts, parallel=parallel).layout
        offsets = np.asarray(layout.offsets.data)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return ids.astype(np.uint32, copy=False), np.diff(offsets).astype(np.int64)

    def encode_checked(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The same, with a sample of the texts compared.

        Raises:
            TokenizersDiffer: If the sample's ids differ.
        """
        text = texts[len(texts) // 2]
        start = xxhash.xxh3_64_intdigest(text[:_SAMPLE].encode()) % max(1, len(text) - _SAMPLE)
        sample = [text[start : start + _SAMPLE]]
        self.compare(sample, *self.encode(sample, parallel=False))
        return self.encode(texts)

    def compare(self, texts: list[str], ids: NDArray[Any], lengths: NDArray[Any]) -> None:
        """Compare ids with the reference's.

        Raises:
            TokenizersDiffer: Naming the first text whose ids differ.
        """
        for text, end, length in zip(texts, np.cumsum(lengths), lengths, strict=True):
            # One by one: encode_batch would start threads, which a process that is forked later cannot use.
            if self._reference.encode(text, add_special_tokens=False).ids != ids[end - length : end].tolist():
                raise TokenizersDiffer(f"they differ for {text[:40]!r}")


def difficult_texts(reference: tokenizers.Tokenizer) -> list[str]:
    """Texts on which tokenizers differ: every Unicode block, special tokens, spaces, numbers, cases, marks, long words."""
    blocks = ["".join(map(chr, range(start, start + 16))) for start in range(0, 0x30000, 128) if not 0xD800 <= start < 0xE000]
    added = [token.content for token in reference.get_added_tokens_decoder().values()][:64]
    mixed = [f"a{token}b {token} {token}{token}\n{token}" for token in added] + [f" {token[:-1]}x" for token in added]
    spaces = [f"a{gap}b{gap}" for gap in ("  ", "   \n", "\r\n", "\n\n\n", "\t\t ", "\u00a0\u2003", "\u3000", " \u200b ", "\x00\x01\x7f", "\x85\u2028")]
    words = ["I'll we'Ve it'S DON'T o'", "1234567890 1,234.5e-10 \u0661\u0662\u00b2\u2155", "camelCaseHTTPServer_v2", "e\u0301\u0302\u0327 \u1e9e\u0130\u01c5"]
    other = ["\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufe0f\u20e3", "\ufffd\ufffe\uffff", "x" * 3000, " " * 700, "-=" * 500, "", " "]
    code = ["def f(x):\n    return {'a': [1, 2]}  # \u2192\n\n\n", "<a href=\"#\">&amp;</a>", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u4e16\u754c\u3053\u3093 \u0928\u092e\u0938\u094d\u0924\u0947"]
    return [*blocks, *mixed, *spaces, *words, *other, *code]
