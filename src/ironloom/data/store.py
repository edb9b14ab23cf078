"""The token store: a corpus as one run of token ids on disk, memory-mapped."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from ironloom.data.cache import cache_root, publish, withdraw
from ironloom.data.tokenizer import Tokenizer
from ironloom.errors import DataError

Progress = Callable[[int, str], None]
"""Called with the number of documents done and what is being done."""

_FORMAT = 1
_TOKENS = "tokens.bin"
_DOCUMENTS = "documents.bin"
_META = "meta.json"
_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 20  # what one call of the tokenizer gets, whichever limit comes first
_HASH_CHUNK = 1 << 20

log = logging.getLogger(__name__)


class TokenStore:
    """A finished store. Opening it costs the same whatever its size.

    The files, little-endian: ``tokens.bin``, uint16 or uint32, every document followed by the end token;
    ``documents.bin``, int64, where each document starts and, last, the number of tokens; ``meta.json``.

    Args:
        folder: Where it lies.

    Attributes:
        folder: Where it lies.
        num_tokens: Tokens, end tokens included.
        num_documents: Documents.
        tokens: The ids, shape (num_tokens,), read-only.
        offsets: Where each document starts and the last one ends, shape (num_documents + 1,), read-only.

    Raises:
        DataError: If a file is missing or has another size than it was written with.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._meta = _read_meta(self.folder)
        self.num_tokens: int = self._meta["num_tokens"]
        self.num_documents: int = self._meta["num_documents"]
        self.tokens: NDArray[Any] = np.memmap(self.folder / _TOKENS, dtype=self._meta["dtype"], mode="r")
        self.offsets: NDArray[Any] = np.memmap(self.folder / _DOCUMENTS, dtype="<i8", mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of its folder."""
        return TokenStore, (self.folder,)

    def verify(self) -> None:
        """Read everything and compare it with what was written.

        Raises:
            DataError: Naming the file that differs.
        """
        for name, expected in self._meta["files"].items():
            hasher = xxhash.xxh3_64()
            with (self.folder / name).open("rb") as file:
                while chunk := file.read(_HASH_CHUNK):
                    hasher.update(chunk)
            if hasher.hexdigest() != expected["xxh3"]:
                raise DataError(f"{self.folder / name}: the content is damaged; delete the folder to prepare it anew")


def prepare(
    documents: Callable[[], Iterator[str]],
    tokenizer: Tokenizer,
    key: str,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> TokenStore:
    """The store of a corpus: opened if it is there, else written first.

    Memory does not grow with the corpus. Several processes may do this at once; a process that is killed leaves nothing
    that counts.

    Args:
        documents: Gives the texts; called only if the store has to be written.
        tokenizer: Turns them into ids; its end token follows each document.
        key: What identifies the texts, such as ``corpus.fingerprint``.
        cache_dir: The cache, see :func:`ironloom.data.cache.cache_root`.
        progress: Called after each batch of documents.

    Raises:
        DataError: If the tokenizer has no end token, or there is no text.
        ResourceError: If the disk is full or the cache cannot be written.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end token: set eos_token in its tokenizer_config.json")
    name = xxhash.xxh3_128_hexdigest(f"{_FORMAT}:{tokenizer.fingerprint}:{key}".encode())
    folder = cache_root(cache_dir) / "tokens" / name
    if folder.exists():
        try:
            return TokenStore(folder)
        except DataError as error:
            log.warning("%s; it is prepared anew", error)
            withdraw(folder)
    publish(folder, lambda staging: _write(staging, documents(), tokenizer, progress))
    return TokenStore(folder)


def _write(folder: Path, documents: Iterator[str], tokenizer: Tokenizer, progress: Progress | None) -> None:
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    with (folder / _TOKENS).open("wb") as tokens_file, (folder / _DOCUMENTS).open("wb") as documents_file:
        tokens, starts = _HashedFile(tokens_file), _HashedFile(documents_file)
        starts.write(np.zeros(1, dtype="<i8"))
        num_tokens = num_documents = 0
        for batch in batches_of(documents):
            encoded = tokenizer.encode_batch(batch)
            ids = itertools.chain.from_iterable((*document, tokenizer.eos_token_id) for document in encoded)
            lengths = np.array([len(document) + 1 for document in encoded], dtype="<i8")
            starts.write(num_tokens + np.cumsum(lengths))
            num_tokens += int(lengths.sum())
            num_documents += len(batch)
            tokens.write(np.fromiter(ids, dtype=dtype))
            if progress is not None:
                progress(num_documents, "tokenizing")
    if num_documents == 0:
        raise DataError("the corpus has no documents")
    meta = {
        "format": _FORMAT,
        "dtype": dtype,
        "num_tokens": num_tokens,
        "num_documents": num_documents,
        "tokenizer": tokenizer.fingerprint,
        "files": {_TOKENS: tokens.summary(), _DOCUMENTS: starts.summary()},
    }
    (folder / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


class _HashedFile:
    """Writes arrays and keeps account of their bytes."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = 0
        self._hasher = xxhash.xxh3_64()

    def write(self, array: NDArray[Any]) -> None:
        content = array.tobytes()
        self._file.write(content)
        self._hasher.update(content)
        self._size += len(content)

    def summary(self) -> dict[str, Any]:
        return {"size": self._size, "xxh3": self._hasher.hexdigest()}


def batches_of(documents: Iterator[str]) -> Iterator[list[str]]:
    """Documents in lists of bounded size; a document longer than the bound is a list of its own."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _read_meta(folder: Path) -> dict[str, Any]:
    """What ``meta.json`` says, once the sizes of the other files agree with it.

    Raises:
        DataError: If they do not, or it cannot be read.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_text(encoding="utf-8"))
        sizes = {name: expected["size"] for name, expected in meta["files"].items()}
        if meta["format"] != _FORMAT or {_TOKENS, _DOCUMENTS} != sizes.keys():
            raise DataError(f"{folder}: a token store of another format")
        for name, size in sizes.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise DataError(f"{folder / name}: {found} bytes, {size} were written")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / _META}: damaged: {error}") from error
    return meta
