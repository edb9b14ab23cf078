"""Text from where it lies: files, folders, the built-in corpora, datasets on the Hugging Face hub."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import xxhash

from ironloom.data import builtin, hub
from ironloom.data.readers import READERS
from ironloom.errors import DataError

_HASH_CHUNK = 1 << 20


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
        source: A file (``.txt``: one document; ``.jsonl``, ``.json``, ``.csv``, ``.parquet``: one for each record), a
            folder (all such files below it in the order of their paths, hidden ones left out), ``python-docs``,
            ``python-stdlib``, or the id of a dataset on the hub, which may be pinned: ``name@revision``.
        text_column: The field of a record that holds the text.
        split: The split of a hub dataset.
        subset: The configuration of a hub dataset.
        max_samples: End after this many documents.

    Yields:
        Texts that can be encoded as UTF-8.

    Raises:
        DataError: Naming the file and, where there are any, the line or the record.
    """
    if source in builtin.CORPORA:
        documents = builtin.CORPORA[source]()
    elif _is_local(source):
        documents = itertools.chain.from_iterable(READERS[path.suffix.lower()](path, text_column) for path in files_of(source))
    else:
        documents = hub.read(source, text_column=text_column, split=split, subset=subset)
    found = False
    for document in itertools.islice(filter(None, documents), max_samples):
        found = True
        yield document
    if not found:
        raise DataError(f"{source}: no text in it")


def fingerprint(
    source: str,
    *,
    text_column: str = "text",
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
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path}: unknown kind of file ({_kinds()} can be read)")
        return [path]

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error

    found = []
    for folder, subfolders, names in os.walk(path, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = sorted(file for file in found if file.suffix.lower() in READERS)
    if not files:
        raise DataError(f"{path}: no file in this folder can be read ({_kinds()} can)")
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
    """Whether a name that does not exist was meant as a path: a hub id is ``name`` or ``owner/name``."""
    first, *rest = source.split("/")
    return (
        source.startswith((".", "/", "~", "\\"))
        or source.endswith("/")
        or len(rest) > 1
        or "\\" in source
        or Path(source).suffix.lower() in READERS
        or (bool(rest) and Path(first).is_dir())
    )


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


def _kinds() -> str:
    return ", ".join(READERS)
