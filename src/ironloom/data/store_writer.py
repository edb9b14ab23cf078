"""Writing a token store so that a kill costs nothing: what is there is known to be right, and is gone on from.

Beside the files lies a journal: after each batch one line says how long the files are, what their content hashes to, and
where the reading of the records goes on. A later process follows the journal as far as the files agree with it, cuts off
what is beyond, and goes on. So neither a kill nor a lost page of a power cut can end up in a store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from ironloom.data.store import COLUMNS, DOCUMENTS, FORMAT, META, TOKENS, Encoder, Rows, dtype_of
from ironloom.errors import DataError

_CHUNK = 1 << 20
_WEIGHTS = COLUMNS["weights"][0]


@dataclass
class Written:
    """How far a store is written, as a line of the journal.

    Attributes:
        mark: Where the reading of the records goes on, see :class:`ironloom.data.preparation.Source`.
        num_tokens: Tokens.
        num_documents: Documents.
        counts: What the encoder has counted.
        hashes: XXH3 of each file so far.
    """

    mark: Any = None
    num_tokens: int = 0
    num_documents: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


class StoreWriter:
    """The files of a store that is being written.

    Args:
        folder: Takes the files of the store; may hold a part of them from before.
        journal: The journal; it lies elsewhere, because it is no part of the store.
        encoder: What is asked about the ids.

    Attributes:
        done: How far it is written; :attr:`Written.mark` is where to go on.
    """

    def __init__(self, folder: Path, journal: Path, encoder: Encoder):
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._encoder = encoder
        self._dtype = dtype_of(encoder.vocab_size)
        self._columns: tuple[str, ...] = ()
        self._types = {TOKENS: self._dtype, DOCUMENTS: "<i8"}
        self._files = {name: _HashedFile(folder / name) for name in self._types}
        for column in encoder.columns:
            self._open(column)
        self.done = Written()
        kept = self._follow(journal)
        journal.write_text("".join(kept), encoding="utf-8")
        self._journal = journal.open("a", encoding="utf-8")
        if not kept:
            self._files[DOCUMENTS].write(np.zeros(1, dtype="<i8"))

    def _open(self, column: str) -> None:
        """Have a file for one more column."""
        file, dtype = COLUMNS[column]
        self._types[file] = dtype
        self._columns = (*self._columns, column)
        self._files[file] = _HashedFile(self._folder / file)

    def _follow(self, journal: Path) -> list[str]:
        """Read the files as far as the journal confirms them and cut off the rest.

        Returns:
            The lines that hold.
        """
        kept = []
        for line in journal.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if journal.exists() else ():
            try:
                step = Written(**json.loads(line))
                if _WEIGHTS in step.hashes and _WEIGHTS not in self._files:
                    self._open("weights")
                lengths = self._sizes(step)
                agree = line.endswith("\n") and all(file.follow(lengths[name]) == step.hashes[name] for name, file in self._files.items())
            except (ValueError, TypeError, KeyError, AttributeError):
                agree = False
            if not agree:
                break
            self.done = step
            kept.append(line)
        if "weights" not in self._encoder.columns and _WEIGHTS not in self.done.hashes:
            self._close_weights()
        lengths = self._sizes(self.done) if kept else dict.fromkeys(self._files, 0)
        for name, file in self._files.items():
            file.cut(lengths[name])
        return kept

    def _close_weights(self) -> None:
        """No token that the journal confirms has a weight of its own: forget the file, which a process may have begun."""
        if _WEIGHTS in self._files:
            self._files.pop(_WEIGHTS).close()
            del self._types[_WEIGHTS]
            self._columns = self._encoder.columns
        (self._folder / _WEIGHTS).unlink(missing_ok=True)

    def _weights_of(self, rows: Rows) -> Rows:
        """The documents with weights for the column, if there is one; there is one from the first weight on that is not 1."""
        is_weighted = rows.weights is not None and bool((rows.weights != 1).any())
        if is_weighted and "weights" not in self._columns:
            self._open("weights")
            for start in range(0, self.done.num_tokens, _CHUNK):
                self._files[_WEIGHTS].write(np.ones(min(_CHUNK, self.done.num_tokens - start), dtype=self._types[_WEIGHTS]))
        if "weights" in self._columns and rows.weights is None:
            return replace(rows, weights=np.ones(len(rows.tokens)))
        return rows

    def _sizes(self, step: Written) -> dict[str, int]:
        counts = dict.fromkeys(self._types, step.num_tokens) | {DOCUMENTS: step.num_documents + 1}
        return {name: counts[name] * np.dtype(dtype).itemsize for name, dtype in self._types.items()}

    def append(self, rows: Rows, mark: Any) -> None:
        """Add documents, and note that reading goes on at ``mark``.

        Raises:
            DataError: If the encoder has made something that cannot be stored.
        """
        _check(rows, self._encoder)
        done, rows = self.done, self._weights_of(rows)
        self._files[TOKENS].write(np.asarray(rows.tokens, dtype=self._dtype))
        self._files[DOCUMENTS].write(done.num_tokens + np.cumsum(rows.lengths, dtype="<i8"))
        for name in self._columns:
            file, dtype = COLUMNS[name]
            self._files[file].write(np.asarray(getattr(rows, name), dtype=dtype))
        counts = dict(done.counts)
        for reason, number in rows.counts.items():
            counts[reason] = counts.get(reason, 0) + number
        hashes = {name: file.digest() for name, file in self._files.items()}
        self.done = Written(mark, done.num_tokens + len(rows.tokens), done.num_documents + len(rows.lengths), counts, hashes)
        for file_ in self._files.values():
            file_.flush()
        self._journal.write(json.dumps(vars(self.done)) + "\n")
        self._journal.flush()

    def finish(self, info: dict[str, Any]) -> None:
        """Write ``meta.json``: the files are complete.

        Raises:
            DataError: If there are no documents.
        """
        done = self.done
        if done.num_documents == 0:
            why = "; ".join(f"{number:,} {reason}" for reason, number in sorted(done.counts.items()))
            raise DataError("the corpus has no documents" + (f": {why}" if why else ""))
        sizes = self._sizes(done)
        meta = {
            "format": FORMAT,
            "dtype": self._dtype,
            "num_tokens": done.num_tokens,
            "num_documents": done.num_documents,
            "vocab_size": self._encoder.vocab_size,
            "tokenizer": self._encoder.tokenizer,
            "columns": list(self._columns),
            "counts": dict(sorted(done.counts.items())),
            "info": info,
            "files": {name: {"size": sizes[name], "xxh3": done.hashes[name]} for name in sorted(sizes)},
        }
        (self._folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        self.close()

    def close(self) -> None:
        """Close the files; what is written stays."""
        for file in self._files.values():
            file.close()
        self._journal.close()


def _check(rows: Rows, encoder: Encoder) -> None:
    """Refuse what cannot be stored.

    Raises:
        DataError: Naming what is wrong.
    """
    total = int(rows.lengths.sum())
    if total != len(rows.tokens) or (len(rows.lengths) and rows.lengths.min() < 1):
        raise DataError(f"an encoder gave {len(rows.tokens)} tokens for documents of {total}, or a document without any")
    if total and (rows.tokens.max() >= encoder.vocab_size or rows.tokens.min() < 0):
        wrong = rows.tokens[(rows.tokens >= encoder.vocab_size) | (rows.tokens < 0)][0]
        raise DataError(f"token id {wrong} is outside the vocabulary of {encoder.vocab_size} tokens: the data are from another tokenizer")
    for name in COLUMNS:
        values: NDArray[Any] | None = getattr(rows, name)
        is_wrong = values is None if name in encoder.columns else values is not None and name != "weights"
        if is_wrong or (values is not None and len(values) != total):
            raise DataError(f"an encoder gave {'no' if values is None else len(values)} values of {name!r} for {total} tokens")


class _HashedFile:
    """A file that keeps account of its bytes."""

    def __init__(self, path: Path):
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._hasher = xxhash.xxh3_64()
        self._at = 0

    def follow(self, size: int) -> str | None:
        """Hash on until the file is ``size`` bytes long; None if it is shorter."""
        while self._at < size:
            chunk = self._file.read(min(_CHUNK, size - self._at))
            if not chunk:
                return None
            self._hasher.update(chunk)
            self._at += len(chunk)
        return self._hasher.hexdigest()

    def cut(self, size: int) -> None:
        """Remove everything from ``size`` on and write there; what was hashed beyond is forgotten."""
        self._file.truncate(size)
        if self._at != size:
            self._hasher, self._at = xxhash.xxh3_64(), 0
            self._file.seek(0)
            self.follow(size)
        self._file.seek(size)

    def write(self, array: NDArray[Any]) -> None:
        content = np.ascontiguousarray(array).view(np.uint8).data
        self._file.write(content)
        self._hasher.update(content)
        self._at += len(content)

    def digest(self) -> str:
        return self._hasher.hexdigest()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
