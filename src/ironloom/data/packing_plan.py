"""The plan of packed rows on disk: made once, named by what it was made from, memory-mapped. Owns the format.

A plan is a folder ``packing/NAME`` of the cache. Its files, all little-endian:

===============  =======  =====================================================================================
``starts.bin``   int64    Where each piece of a document starts, in tokens of the store; row after row: (pieces,).
``sizes.bin``    int32    Tokens of each piece that a model is given: (pieces,).
``rows.bin``     int64    First piece of each row and, last, the number of pieces: (rows + 1,).
``meta.json``             ``format``, ``row_length``, ``keep_last``, ``num_rows``, ``num_pieces``, ``num_tokens``,
                          ``num_documents``, ``cut``, ``left_out``, ``files`` (XXH3 of each).
===============  =======  =====================================================================================
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ironloom.data import packing
from ironloom.data.cache import cache_root, publish, withdraw
from ironloom.data.store import TokenStore, content_hash
from ironloom.errors import DataError

FORMAT = 1
_META = "meta.json"
_FILES = {"starts.bin": "<i8", "sizes.bin": "<i4", "rows.bin": "<i8"}

log = logging.getLogger(__name__)


class PackingPlan:
    """Rows of documents. Any row is found at once.

    Args:
        folder: Where it lies.

    Attributes:
        folder: Where it lies.
        row_length: Tokens that a model is given at most.
        keep_last: Whether it is given the last token of each document, too.
        num_rows: Rows.
        num_tokens: Tokens in all rows.
        num_documents: Documents, those left out among them.
        num_cut: Documents that are longer than a row, and therefore in several.
        num_left_out: Documents of a single token.
        starts: See the module, as for the next two; read-only.
        sizes: See the module.
        rows: See the module.

    Raises:
        DataError: If a file is missing or is not what was written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        meta = _read_meta(self.folder)
        self.row_length: int = meta["row_length"]
        self.keep_last: bool = meta["keep_last"]
        self.num_rows: int = meta["num_rows"]
        self.num_tokens: int = meta["num_tokens"]
        self.num_documents: int = meta["num_documents"]
        self.num_cut: int = meta["cut"]
        self.num_left_out: int = meta["left_out"]
        self.starts, self.sizes, self.rows = (self._array(name) for name in _FILES)

    def _array(self, name: str) -> NDArray[Any]:
        # Slicing a plain array is several times faster than slicing a memmap, and reads the same file.
        return np.asarray(np.memmap(self.folder / name, dtype=_FILES[name], mode="r")).view(np.ndarray)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as the name of its folder."""
        return PackingPlan, (self.folder,)

    @property
    def fill(self) -> float:
        """Share of the rows that is no padding."""
        return self.num_tokens / (self.num_rows * self.row_length)

    def __str__(self) -> str:
        """What is told of it."""
        parts = [f"{self.num_documents:,} documents in {self.num_rows:,} rows of {self.row_length:,} tokens, {self.fill:.1%} filled"]
        parts.append(f"{self.num_rows * self.row_length - self.num_tokens:,} tokens of padding")
        parts += [f"{self.num_cut:,} longer than a row and cut"] * bool(self.num_cut)
        parts += [f"{self.num_left_out:,} of a single token left out"] * bool(self.num_left_out)
        return ", ".join(parts)


def packing_plan(
    store: TokenStore, start: int, stop: int, row_length: int, *, keep_last: bool = False, cache_dir: str | Path | None = None
) -> PackingPlan:
    """The plan of some documents of a store: opened if it is there, made and kept else; made anew if it is damaged.

    Args:
        store: The documents.
        start: First document.
        stop: End of the documents.
        row_length: Tokens that a model is given at most.
        keep_last: Whether it is given the last token of each document, too, see :func:`ironloom.data.packing.windows`.
        cache_dir: The cache, see :func:`ironloom.data.cache.cache_root`.

    Raises:
        DataError: If there is nothing to put into rows.
        ResourceError: If the disk is full or the cache cannot be written.
    """
    key = f"{FORMAT}:{packing.WINDOW}:{store.fingerprint}:{start}:{stop}:{row_length}:{keep_last}"
    folder = cache_root(cache_dir) / "packing" / xxhash.xxh3_128_hexdigest(key.encode())
    if folder.exists():
        try:
            return PackingPlan(folder)
        except DataError as error:
            log.warning("%s; it is made anew", error)
            withdraw(folder)
    publish(folder, lambda staging: _write(staging, store, start, stop, row_length, keep_last))
    return PackingPlan(folder)


def _write(folder: Path, store: TokenStore, start: int, stop: int, row_length: int, keep_last: bool) -> None:
    num_pieces = num_rows = num_tokens = cut = left_out = 0
    hashes = {name: xxhash.xxh3_64() for name in _FILES}
    files = {name: (folder / name).open("wb") for name in _FILES}

    def append(name: str, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, dtype=_FILES[name]).tobytes()
        hashes[name].update(data)
        files[name].write(data)

    try:
        append("rows.bin", np.zeros(1))
        for window in packing.windows(store.offsets, start, stop, row_length, keep_last):
            append("starts.bin", window.starts)
            append("sizes.bin", window.sizes)
            append("rows.bin", num_pieces + np.cumsum(window.counts))
            num_pieces += len(window.starts)
            num_rows += len(window.counts)
            num_tokens += int(window.sizes.sum())
            cut += window.cut
            left_out += window.left_out
    finally:
        for file in files.values():
            file.close()
    if not num_rows:
        raise DataError(f"{stop - start:,} documents give no row: a document needs at least two tokens (use more text, or another split)")
    meta = {
        "format": FORMAT,
        "row_length": row_length,
        "keep_last": keep_last,
        "num_rows": num_rows,
        "num_pieces": num_pieces,
        "num_tokens": num_tokens,
        "num_documents": stop - start,
        "cut": cut,
        "left_out": left_out,
        "files": {name: each.hexdigest() for name, each in hashes.items()},
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def _read_meta(folder: Path) -> dict[str, Any]:
    """What ``meta.json`` says, once the other files agree with it.

    They are read whole: they are small beside the tokens, and a wrong place would be read as if it were a right one.

    Raises:
        DataError: If they do not, or it cannot be read.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["files"].keys() != _FILES.keys():
            raise ValueError("it is of another format")
        for name, expected in meta["files"].items():
            if content_hash(folder / name) != expected:
                raise DataError(f"{folder / name}: the content is damaged")
        found = [(folder / name).stat().st_size // np.dtype(dtype).itemsize for name, dtype in _FILES.items()]
        if found != [meta["num_pieces"], meta["num_pieces"], meta["num_rows"] + 1]:
            raise ValueError("its numbers are not those of its files")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / _META}: damaged: {error}") from error
    return meta
