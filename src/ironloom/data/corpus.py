"""Text from where it lies: files, folders, the built-in corpora, datasets on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from ironloom.data import builtin, hub, ironcore
from ironloom.data.readers import Text, kinds, reader_of
from ironloom.errors import DataError
from ironloom.settings.parts import looks_local

_HASH_CHUNK = 1 << 20
_SHOWN = 10  # wrong records that are shown
_COUNTED_RECORDS = 1_000_000  # records that are looked at after the first wrong one


def read_documents(
    source: str,
    *,
    text_column: str = "text",
    split: str = "train",
    subset: str | None = None,
    max_samples: int | None = None,
) -> Iterator[str]:
    """The documents of a source, one after the other, in a fixed order. Empty ones are left out.

    Args:
        source: A file (``.txt``: one document; ``.jsonl``, ``.json``, ``.csv``, ``.parquet``: one for each record; but for
            Parquet also compressed, ``.gz`` or ``.zst``), a folder (all such files below it in the order of their paths,
            hidden ones left out), a folder that ``datasets`` has saved, or IronCore has prepared (:func:`read_marked` only),
            ``python-docs``, ``python-stdlib``, or the id of a dataset on the hub, which may be pinned: ``name@revision``.
        text_column: The field of a record that holds the text.
        split: The split of a hub dataset.
        subset: The configuration of a hub dataset.
        max_samples: End after this many documents.

    Yields:
        Texts that can be encoded as UTF-8.

    Raises:
        DataError: Naming the file and, where there are any, the line or the record; where many are wrong, their number.
    """
    documents = read_marked(source, text_column=text_column, split=split, subset=subset, max_samples=max_samples)
    for document, _ in documents:
        if not isinstance(document, str):
            raise DataError(f"{source}: holds token ids, not texts: they cannot train or change a tokenizer")
        yield document


def read_marked(
    source: str,
    *,
    text_column: str | None = "text",
    split: str = "train",
    subset: str | None = None,
    max_samples: int | None = None,
    mark: Sequence[int] | None = None,
) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    """The documents of :func:`read_documents`, each with the mark of what follows it.

    Args:
        source: As there, and so are the others.
        text_column: As there; None: records as they are, each a pair of place and record.
        mark: Go on where this mark points; files before it are not read again.
    """
    place, skip, taken = mark or (0, 0, 0)
    pieces = parts(source, text_column, split, subset)
    for number in range(place, len(pieces)):
        if max_samples is not None and taken >= max_samples:
            break
        texts = pieces[number](skip)
        for record, text in enumerate(texts, start=skip + 1):
            if isinstance(text, DataError):
                raise gathered_errors(text, itertools.chain(texts, *(part(0) for part in pieces[number + 1 :])))
            if len(text):
                taken += 1
                yield text, (number, record, taken)
                if taken == max_samples:
                    return
        skip = 0
    if taken == 0:
        raise DataError(f"{source}: no text in it")


def parts(source: str, text_column: str | None, split: str, subset: str | None) -> list[Callable[[int], Iterator[Any]]]:
    """What a source consists of: each part gives its texts from a number on."""
    if source in builtin.CORPORA:
        return [lambda skip: itertools.islice(builtin.CORPORA[source](), skip, None)]
    if not _is_local(source):
        return [lambda skip: hub.read(source, text_column=text_column, split=split, subset=subset, skip=skip)]
    path = Path(source).expanduser()
    if ironcore.is_prepared(path):
        return [lambda skip: itertools.islice(_tokens(path), skip, None)]
    if hub.is_saved(path):
        return [lambda skip: hub.read_saved(path, text_column=text_column, split=split, skip=skip)]

    def part(file: Path) -> Callable[[int], Iterator[Text]]:
        reader = reader_of(file)
        assert reader is not None
        return lambda skip: itertools.islice(reader(file, text_column), skip, None)

    return [part(file) for file in files_of(source)]


def _tokens(folder: Path) -> Iterator[NDArray[Any]]:
    """The ids of documents that IronCore has prepared for pretraining."""
    for number, document in enumerate(ironcore.read(folder)):
        if document.type != "pretrain" or document.trained is not None:
            masked = "" if document.trained is None else " with masked tokens"
            raise DataError(f"{folder}: document {number} is of type {document.type}{masked}: only plain pretraining data can be read")
        yield document.tokens


def gathered_errors(first: DataError, rest: Iterable[Any]) -> DataError:
    """One error for all records that are wrong; reads the rest of the corpus, or as much as can be expected."""
    found = [first]
    with contextlib.suppress(DataError):  # of a whole file; it will be told when the records are right
        for text in itertools.islice(rest, _COUNTED_RECORDS):
            if isinstance(text, DataError):
                found.append(text)
    if len(found) == 1:
        return first
    shown = [str(error) for error in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
    return DataError("\n".join([f"{len(found):,} records cannot be used:", *shown, *more]))


def fingerprint(
    source: str,
    *,
    text_column: str | None = "text",
    split: str = "train",
    subset: str | None = None,
    max_samples: int | None = None,
) -> str:
    """What identifies the documents that :func:`read_documents` would give for the same arguments.

    Files and built-in corpora are identified by their content. A hub dataset is identified by its id, split and subset
    and, if it is pinned, its revision; nothing is asked of the hub, so that what was prepared once is found offline.

    Raises:
        DataError: If a file cannot be read.
    """
    if source in builtin.CORPORA:
        hasher = xxhash.xxh3_128()
        for document in builtin.CORPORA[source]():
            hasher.update(f"{len(document)}:{document}".encode())
        identity = f"{source}:{hasher.hexdigest()}"
    elif _is_local(source) and (hub.is_saved(folder := Path(source).expanduser()) or ironcore.is_prepared(folder)):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        identity = ";".join(f"{_name_in(source, path)}:{_content(path)}" for path in files) + f":{split}:{text_column}"
    elif _is_local(source):
        identity = ";".join(f"{_name_in(source, path)}:{_content(path)}" for path in files_of(source)) + f":{text_column}"
    else:
        identity = f"hub:{source}:{subset}:{split}:{text_column}"
    return xxhash.xxh3_128_hexdigest(f"{identity}:{max_samples}".encode())


def files_of(source: str) -> list[Path]:
    """The files that a local source means, sorted; links to folders are not followed.

    Raises:
        DataError: If there is none, or it cannot be looked at.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if reader_of(path) is None:
            raise DataError(f"{path}: unknown kind of file ({kinds()} can be read)")
        return [path]

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error

    found = []
    for folder, subfolders, names in os.walk(path, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = sorted(file for file in found if reader_of(file) is not None)
    if not files:
        raise DataError(f"{path}: no file in this folder can be read ({kinds()} can)")
    return files


def _is_local(source: str) -> bool:
    """Whether ``source`` is there as a file or folder.

    Raises:
        DataError: If it is not, but can mean nothing else.
    """
    path = Path(source).expanduser()
    try:
        path.stat()
    except FileNotFoundError:
        if _looks_local(source):
            raise DataError(f"{path}: no such file or folder") from None
        return False
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return True


def _looks_local(source: str) -> bool:
    """Whether a name that does not exist was meant as a path."""
    first, *rest = source.split("/")
    return looks_local(source) or (bool(rest) and Path(first).is_dir())


def _content(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                size += len(chunk)
                hasher.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return f"{size}:{hasher.hexdigest()}"


def _name_in(source: str, path: Path) -> str:
    """The name of a file within its source, so that a corpus may be moved."""
    root = Path(source).expanduser()
    return path.name if path == root else path.relative_to(root).as_posix()
