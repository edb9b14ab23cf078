"""The tokenizer of a run: loaded, or trained once for all runs that have the same texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import xxhash

from ironloom.data.cache import cache_root, publish, withdraw
from ironloom.data.store import Progress
from ironloom.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from ironloom.data.tokenizer_types import make_tokenizer
from ironloom.errors import ConfigError, DataError

_REPORT_EVERY = 256  # texts between two reports while a tokenizer is trained

log = logging.getLogger(__name__)


def made_tokenizer(
    tokenizer_type: str,
    vocab_name_or_path: str | None,
    vocab_size: int | None,
    texts: Callable[[], Iterator[str]],
    key: Callable[[], str],
    cache_dir: str | None,
    progress: Progress | None,
    special_tokens: str | None = None,
) -> Tokenizer:
    """The tokenizer of a run: loaded, or trained on its texts, once for all runs that have the same ones.

    Args:
        tokenizer_type: See ``tokenizer.make_tokenizer``, as for the next two.
        vocab_name_or_path: Where it is loaded from.
        vocab_size: Size of one that is trained; the most that a loaded one may have.
        texts: Gives what it is trained on.
        key: Gives what identifies the texts.
        cache_dir: The cache, see ``cache.cache_root``.
        progress: Called now and then with the number of texts read.
        special_tokens: A file of special tokens, see ``Tokenizer.with_special_tokens``.

    Raises:
        ConfigError: If a loaded one is larger than ``vocab_size``.
        DataError: If it cannot be loaded, or there is no text.
    """

    def documents() -> Iterator[str]:
        for number, document in enumerate(texts()):
            if progress is not None and number % _REPORT_EVERY == 0:
                progress(number, "training the tokenizer")
            yield document

    def make() -> Tokenizer:
        return make_tokenizer(tokenizer_type, vocab_name_or_path, vocab_size or MIN_VOCAB_SIZE, documents)

    is_trained = vocab_name_or_path is None and tokenizer_type == "bbpe"
    if is_trained:
        tokenizer = _cached_tokenizer(make, f"{vocab_size}:{key()}", cache_dir)
    elif tokenizer_type == "tiktoken":  # converting takes a while, and needs what may lie on the network
        tokenizer = _cached_tokenizer(make, f"tiktoken:1:{vocab_name_or_path}", cache_dir)
    else:
        tokenizer = make()
    if special_tokens is not None:
        tokenizer = tokenizer.with_special_tokens(special_tokens)
    if not is_trained and vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ConfigError(f"vocab_size: the tokenizer has {tokenizer.vocab_size} tokens, more than {vocab_size}: leave vocab_size out")
    return tokenizer


def _cached_tokenizer(make: Callable[[], Tokenizer], key: str, cache_dir: str | None) -> Tokenizer:
    """The tokenizer that was trained before under the same key, or a new one, which is kept."""
    folder = cache_root(cache_dir) / "tokenizers" / xxhash.xxh3_128_hexdigest(key.encode())
    if folder.exists():
        try:
            return Tokenizer.load(folder)
        except DataError as error:
            log.warning("%s; it is trained anew", error)
            withdraw(folder)
    publish(folder, lambda staging: make().save_pretrained(staging))
    return Tokenizer.load(folder)
