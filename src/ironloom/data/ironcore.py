"""The binary format of IronCore, ``data.bin`` and ``data.idx.npy`` in one folder, read and written.

``data.bin`` holds the ids one after the other, little-endian, uint16 if the largest is below 65,535, else uint32; which of
them is not recorded and follows from the size. ``data.idx.npy`` is a structured array with a row for each document:
``offset`` (in tokens) and ``length``, ``type`` (pretrain, sft, dpo_chosen, dpo_rejected), ``group_id`` (-1, or the number
of a pair) and ``mask_ranges``: JSON, ``[[start, end], ...]``, the tokens of the document that are not trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ironloom.data.cache import publish
from ironloom.data.store import TokenStore
from ironloom.errors import ConfigError, DataError

BIN, INDEX = "data.bin", "data.idx.npy"
TYPES = ("pretrain", "sft", "dpo_chosen", "dpo_rejected")

_FIELDS = {"offset": "u", "length": "u", "type": "U", "group_id": "i", "mask_ranges": "U"}
_RANGES = 500  # characters of mask_ranges in files of the original; longer ones get a wider field, which numpy reads as well
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Document:
    """One document of such a folder.

    Attributes:
        tokens: Its ids, end token included.
        trained: 1 for each token that is trained, uint8; None: all are.
        type: One of :data:`TYPES`.
        group_id: Number of the pair that it belongs to; -1 for none.
    """

    tokens: NDArray[Any]
    trained: NDArray[np.uint8] | None
    type: str
    group_id: int


def is_prepared(path: Path) -> bool:
    """Whether a folder holds data of this format."""
    return (path / BIN).is_file() and (path / INDEX).is_file()


def read(folder: Path) -> Iterator[Document]:
    """The documents of a folder, in the order of the index.

    Raises:
        DataError: If a file is damaged or the two do not belong together.
    """
    try:
        index: NDArray[Any] = np.load(folder / INDEX, mmap_mode="r", allow_pickle=False)
        size = (folder / BIN).stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder / INDEX}: not readable as an index: {error}") from error
    kinds = {name: index.dtype[name].kind for name in index.dtype.names or ()}
    if index.ndim != 1 or any(kinds.get(name) != kind for name, kind in _FIELDS.items()):
        raise DataError(f"{folder / INDEX}: expected rows with {', '.join(_FIELDS)}, found {index.dtype}")
    total = int(index["length"].sum(dtype=np.uint64))
    if total == 0 or size not in (2 * total, 4 * total):
        raise DataError(f"{folder / BIN}: {size} bytes are neither 2 nor 4 for each of the {total} tokens of {INDEX}")
    tokens = np.memmap(folder / BIN, dtype="<u2" if size == 2 * total else "<u4", mode="r")
    for number, row in enumerate(index):
        place = f"{folder / INDEX}: row {number}"
        start, length = int(row["offset"]), int(row["length"])
        if length == 0 or start + length > total:
            raise DataError(f"{place}: tokens {start} to {start + length} of {total}")
        if row["type"] not in TYPES:
            raise DataError(f"{place}: unknown type {str(row['type'])!r} (one of {', '.join(TYPES)})")
        trained = _trained(str(row["mask_ranges"]), length, place)
        yield Document(np.array(tokens[start : start + length]), trained, str(row["type"]), int(row["group_id"]))


def _trained(ranges: str, length: int, place: str) -> NDArray[np.uint8] | None:
    """Which tokens are trained; None if all are.

    Raises:
        DataError: If the ranges are damaged.
    """
    if ranges in ("", "[]"):
        return None
    try:
        pairs = json.loads(ranges)
        edges = [(int(start), int(stop)) for start, stop in pairs]
    except (ValueError, TypeError, RecursionError) as error:
        cut = ", cut off when it was written" if len(ranges) >= _RANGES else ""
        raise DataError(f"{place}: mask_ranges is damaged{cut}: {error}; prepare the data anew from its texts") from error
    trained = np.ones(length, dtype=np.uint8)
    for start, stop in edges:
        if not 0 <= start <= stop <= length:
            raise DataError(f"{place}: the masked range {start} to {stop} is not within its {length} tokens")
        trained[start:stop] = 0
    return trained


def write(store: TokenStore, folder: Path, types: Sequence[str] = ("pretrain",)) -> None:
    """Write a store in this format; the folder appears complete or not at all.

    Args:
        store: What is written.
        folder: Takes the two files; must not exist yet.
        types: Of the documents, in turn: ``("dpo_chosen", "dpo_rejected")`` for pairs, which then have a number in common.

    Raises:
        ConfigError: If the folder exists.
        DataError: If the store holds weights, for which the format has no place.
        ResourceError: If the disk is full.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already; name another folder, or remove it")
    if store.weights is not None:
        raise DataError(f"{store.folder}: its tokens have weights, for which this format has no place")
    publish(folder, lambda staging: _write(store, staging, types))
    (folder / ".lock").unlink(missing_ok=True)


def _write(store: TokenStore, folder: Path, types: Sequence[str]) -> None:
    starts = range(0, store.num_tokens, _CHUNK)
    largest = max(int(store.tokens[start : start + _CHUNK].max()) for start in starts)
    dtype = "<u2" if largest < 65535 else "<u4"
    with (folder / BIN).open("wb") as file:
        for start in starts:
            file.write(store.tokens[start : start + _CHUNK].astype(dtype).tobytes())
    ranges = [_ranges(store, number) for number in range(store.num_documents)] if store.trained is not None else None
    width = max(_RANGES, max(map(len, ranges))) if ranges else _RANGES
    fields = [("offset", "<u8"), ("length", "<u4"), ("type", "<U20"), ("group_id", "<i8"), ("mask_ranges", f"<U{width}")]
    index = np.lib.format.open_memmap(folder / INDEX, mode="w+", dtype=np.dtype(fields), shape=(store.num_documents,))
    for start in range(0, store.num_documents, _CHUNK):
        stop = min(start + _CHUNK, store.num_documents)
        rows = index[start:stop]
        rows["offset"] = store.offsets[start:stop]
        rows["length"] = np.diff(store.offsets[start : stop + 1])
        numbers = np.arange(start, stop)
        rows["type"] = np.array(types)[numbers % len(types)]
        rows["group_id"] = numbers // len(types) if len(types) > 1 else -1
        rows["mask_ranges"] = ranges[start:stop] if ranges else "[]"
    index.flush()


def _ranges(store: TokenStore, number: int) -> str:
    """The masked ranges of a document."""
    assert store.trained is not None
    trained = store.trained[store.offsets[number] : store.offsets[number + 1]]
    edges = np.flatnonzero(np.diff(np.concatenate([[1], trained, [1]])))
    return json.dumps(edges.reshape(-1, 2).tolist(), separators=(",", ":"))
