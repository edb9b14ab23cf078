"""The token store: a corpus as one run of token ids on disk, memory-mapped. Owns the format; writing is ``store_writer``.

A store is a folder. It exists complete or not at all, and is never changed afterwards. Its files, all little-endian:

=================  =========  =================================================================================
``tokens.bin``     uint16 or  The ids, document after document. uint16 where the vocabulary has 65,536 ids or
                   uint32     fewer.
``documents.bin``  int64      Where each document starts and, last, the number of tokens: (documents + 1,).
``trained.bin``    uint8      Only where a task trains some tokens and not others: 1 for a token that the model has
                              to produce, 0 for one that it is given; one for each token.
``weights.bin``    float32    Only where some trained token has another weight than 1: that of each token, 1 for those
                              that are not trained.
``meta.json``                 ``format``, ``dtype``, ``num_tokens``, ``num_documents``, ``vocab_size``, ``tokenizer``
                              (fingerprint), ``columns`` (of ``trained``, ``weights``), ``counts`` (what the encoder
                              counted), ``info`` (the task's own), ``files`` (size and XXH3 of each).
=================  =========  =================================================================================

Boundaries are ``documents.bin`` alone: whether a document ends with an end token is the encoder's choice, and no reader
looks for one. Tasks write through :func:`ironloom.data.preparation.build_store`: an :class:`Encoder` makes :class:`Rows`
of records; processes, resuming, checks and publishing are the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ironloom.errors import DataError

if TYPE_CHECKING:
    from ironloom.data.tokenizer import Tokenizer


class Progress(Protocol):
    """Is told how far work has come."""

    def __call__(self, done: int, what: str, fraction: float | None = None, /) -> None:
        """Take note.

        Args:
            done: Documents that are done.
            what: What is being done.
            fraction: How much of it, from 0 to 1, where that is known.
        """


FORMAT = 2
TOKENS, DOCUMENTS, META = "tokens.bin", "documents.bin", "meta.json"
COLUMNS = {"trained": ("trained.bin", "<u1"), "weights": ("weights.bin", "<f4")}
"""What may lie beside the tokens, one value for each: its file and its type."""

_HASH_CHUNK = 1 << 20


@dataclass(frozen=True)
class Rows:
    """The documents that an encoder makes of some records.

    Attributes:
        tokens: Ids, document after document, shape (tokens,), any integer type.
        lengths: Tokens of each document, shape (documents,); none is empty.
        trained: 1 where the model has to produce the token, shape (tokens,); None where all are trained.
        weights: Weight of each token, shape (tokens,), float32; None where all weigh 1.
        counts: What is to be told in the end, such as records that were dropped, by reason; summed over all batches.
    """

    tokens: NDArray[Any]
    lengths: NDArray[Any]
    trained: NDArray[Any] | None = None
    weights: NDArray[Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: list[list[int]], counts: dict[str, int] | None = None, **columns: list[list[Any]]) -> Rows:
        """From lists of ids and, by name, lists of as many values for each column."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)

        def flat(values: list[list[Any]], dtype: str) -> NDArray[Any]:
            return np.array([value for document in values for value in document], dtype=dtype)

        others = {name: flat(values, COLUMNS[name][1]) for name, values in columns.items()}
        return cls(flat(documents, "<u4"), lengths, counts=counts or {}, **others)


class Encoder(Protocol):
    """Makes documents of records, in any process: it is picklable, and what it makes of a record depends on nothing else.

    Attributes:
        fingerprint: Equal for encoders that make the same of every record; part of the store's name.
        tokenizer: Fingerprint of the tokenizer.
        vocab_size: Every id is below it.
        columns: What :class:`Rows` always holds beside the tokens, such as ``trained``. ``weights`` may come besides: they are
            stored if any of them is not 1.
    """

    @property
    def fingerprint(self) -> str:
        """See the class."""

    @property
    def tokenizer(self) -> str:
        """See the class."""

    @property
    def vocab_size(self) -> int:
        """See the class."""

    @property
    def columns(self) -> tuple[str, ...]:
        """See the class."""

    def __call__(self, records: list[Any]) -> Rows:
        """The documents of some records, in their order; fewer where some are dropped, and counted."""


class TokenStore:
    """A finished store. Opening it costs the same whatever its size.

    Args:
        folder: Where it lies.

    Attributes:
        folder: Where it lies.
        num_tokens: Tokens, end tokens included.
        num_documents: Documents.
        tokens: The ids, shape (num_tokens,), read-only.
        offsets: Where each document starts and the last one ends, shape (num_documents + 1,), read-only.
        trained: 1 for each token that the model has to produce, uint8 of shape (num_tokens,); None: all are trained.
        weights: Weight of each token, float32 of shape (num_tokens,); None: all weigh 1.
        vocab_size: Every id is below it.
        counts: What was counted while it was written, such as records that were dropped, by reason.
        info: What the task keeps with it.

    Raises:
        DataError: If a file is missing or has another size than it was written with.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._meta = meta = _read_meta(self.folder)
        self.num_tokens: int = meta["num_tokens"]
        self.num_documents: int = meta["num_documents"]
        self.vocab_size: int = meta["vocab_size"]
        self.counts: dict[str, int] = meta["counts"]
        self.info: dict[str, Any] = meta["info"]
        self.tokens: NDArray[Any] = np.memmap(self.folder / TOKENS, dtype=meta["dtype"], mode="r")
        self.offsets: NDArray[Any] = np.memmap(self.folder / DOCUMENTS, dtype="<i8", mode="r")
        self.trained = self._column("trained")
        self.weights = self._column("weights")

    def _column(self, name: str) -> NDArray[Any] | None:
        file, dtype = COLUMNS[name]
        return np.memmap(self.folder / file, dtype=dtype, mode="r") if name in self._meta["columns"] else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of its folder."""
        return TokenStore, (self.folder,)

    @property
    def fingerprint(self) -> str:
        """Equal for stores with the same content, wherever and however they were made."""
        files = sorted((name, file["xxh3"]) for name, file in self._meta["files"].items())
        return xxhash.xxh3_128_hexdigest(json.dumps([self._meta["dtype"], files]).encode())

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer whose ids these are."""
        return str(self._meta["tokenizer"])

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer whose ids mean something else.

        Raises:
            DataError: If the store was made with another.
        """
        if tokenizer.fingerprint != self.tokenizer:
            raise DataError(
                f"{self.folder}: made with another tokenizer ({self.tokenizer[:12]}, not {tokenizer.fingerprint[:12]}); "
                "prepare the data with this one, or name the one it was made with in vocab_name_or_path"
            )

    def verify(self) -> None:
        """Read everything and compare it with what was written.

        Raises:
            DataError: Naming the file that differs.
        """
        for name, expected in self._meta["files"].items():
            if content_hash(self.folder / name) != expected["xxh3"]:
                raise DataError(f"{self.folder / name}: the content is damaged; delete the folder to prepare it anew")


def content_hash(path: Path) -> str:
    """XXH3 of a file, which is read in pieces."""
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def prepare(
    documents: Callable[[], Iterator[str]],
    tokenizer: Tokenizer,
    key: str,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    num_workers: int | None = None,
) -> TokenStore:
    """The store of texts, each followed by the tokenizer's end token: opened if it is there, else written first.

    Args:
        documents: Gives the texts; called only if the store has to be written.
        tokenizer: Turns them into ids.
        key: What identifies the texts, such as ``corpus.fingerprint``.
        cache_dir: The cache, see :func:`ironloom.data.cache.cache_root`.
        progress: Called after each batch of documents.
        num_workers: See ``preparation.build_store``.

    Raises:
        DataError: If the tokenizer has no end token, or there is no text.
        ResourceError: If the disk is full or the cache cannot be written.
    """
    from ironloom.data.preparation import Counted, TextEncoder, build_store

    encoder = TextEncoder(tokenizer)
    return build_store(Counted(documents), encoder, key, cache_dir=cache_dir, progress=progress, num_workers=num_workers)


def dtype_of(vocab_size: int) -> str:
    """The type of the ids of a vocabulary."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _read_meta(folder: Path) -> dict[str, Any]:
    """What ``meta.json`` says, once the sizes of the other files agree with it.

    Raises:
        DataError: If they do not, or it cannot be read.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise DataError(f"{folder}: a token store of another format")
        names = {TOKENS: meta["num_tokens"] * np.dtype(meta["dtype"]).itemsize, DOCUMENTS: (meta["num_documents"] + 1) * 8}
        names |= {COLUMNS[name][0]: meta["num_tokens"] * np.dtype(COLUMNS[name][1]).itemsize for name in meta["columns"]}
        for name, size in names.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise DataError(f"{folder / name}: {found} bytes, {size} were written")
        if names.keys() != meta["files"].keys() or not all(isinstance(meta[key], dict) for key in ("counts", "info")):
            raise DataError(f"{folder / META}: damaged: it does not name its files")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / META}: damaged: {error}") from error
    return meta
