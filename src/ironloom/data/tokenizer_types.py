"""The tokenizer that a configuration names: loaded, trained or converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ironloom.data import tokenizer_convert, tokenizer_files
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import ConfigError
from ironloom.settings.base import nearest

TOKENIZER_TYPES = ("gpt2", "bbpe", "llama", "byte", "tiktoken", "sentencepiece")


def make_tokenizer(
    tokenizer_type: str,
    vocab_name_or_path: str | None,
    vocab_size: int,
    documents: Callable[[], Iterator[str]],
) -> Tokenizer:
    """The tokenizer that a configuration names.

    Args:
        tokenizer_type: ``gpt2``, ``bbpe`` or ``llama``: load it; ``bbpe`` without a name: train it; ``byte``: the bytes
            of UTF-8, where the other arguments play no part; ``tiktoken``, ``sentencepiece``: convert it.
        vocab_name_or_path: A folder, a ``tokenizer.json`` or a name on the hub; the name of an encoding; a ``.model`` file
            or its folder.
        vocab_size: Size of a tokenizer that is trained.
        documents: Gives the text to train on.

    Raises:
        ConfigError: For a type that is unknown, or lacks its name.
        DataError: If it cannot be loaded, or there is no text to train on.
    """
    check_tokenizer_type(tokenizer_type, vocab_name_or_path)
    if tokenizer_type == "byte":
        return Tokenizer.bytes()
    if vocab_name_or_path is None and tokenizer_type == "bbpe":
        return Tokenizer.train(documents(), vocab_size)
    if tokenizer_type == "tiktoken":
        return Tokenizer(*tokenizer_convert.from_tiktoken(str(vocab_name_or_path)))
    if tokenizer_type == "sentencepiece" and not tokenizer_files.is_converted(str(vocab_name_or_path)):
        return Tokenizer(*tokenizer_convert.from_sentencepiece(tokenizer_files.find_model(str(vocab_name_or_path))))
    return Tokenizer.load(vocab_name_or_path or tokenizer_type)


def check_tokenizer_type(tokenizer_type: str, vocab_name_or_path: str | None) -> None:
    """Refuse what :func:`make_tokenizer` cannot make.

    Raises:
        ConfigError: For a type that is unknown, or lacks its name.
    """
    if tokenizer_type not in TOKENIZER_TYPES:
        near = nearest(tokenizer_type, TOKENIZER_TYPES)
        hint = f"did you mean {near!r}?" if near else f"one of {', '.join(TOKENIZER_TYPES)}"
        raise ConfigError(f"tokenizer_type: unknown type {tokenizer_type!r} ({hint})")
    if tokenizer_type in ("llama", "tiktoken", "sentencepiece") and vocab_name_or_path is None:
        what = {"tiktoken": "the name of its encoding", "sentencepiece": "its file"}.get(
            tokenizer_type, "the folder or the name it is loaded from"
        )
        raise ConfigError(f"vocab_name_or_path: a {tokenizer_type} tokenizer needs {what}")
