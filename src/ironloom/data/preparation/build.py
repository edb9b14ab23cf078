"""One store, from its records: found, gone on with, or begun; published complete or not at all."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from ironloom.atomic import fsync_file, fsync_folder
from ironloom.data.cache import cache_root, cannot_write, claimed, withdraw
from ironloom.data.preparation.encoders import TextEncoder
from ironloom.data.preparation.pool import encoded
from ironloom.data.preparation.records import Source, batches, size_of
from ironloom.data.store import FORMAT, Encoder, Progress, Rows, TokenStore
from ironloom.data.store_writer import StoreWriter
from ironloom.data.tokenizer_fast import TokenizersDifferError
from ironloom.errors import DataError

log = logging.getLogger(__name__)

_LONG = 10.0  # seconds after which a user would like to hear of a faster way


def build_store(
    source: Source,
    encoder: Encoder,
    key: str,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    num_workers: int | None = None,
    info: dict[str, Any] | None = None,
) -> TokenStore:
    """The store of a source's records: opened if it is there, gone on with if a killed process began it, else written.

    Memory does not grow with the corpus. What comes out does not depend on the number of processes or on interruptions.
    Of several processes that ask for the same store one writes it, the others wait.

    Args:
        source: The records; read only if the store is not there.
        encoder: Makes documents of them.
        key: What identifies the records, such as ``Corpus.key()``.
        cache_dir: The cache, see :func:`ironloom.data.cache.cache_root`.
        progress: Called after each batch with the number of documents so far.
        num_workers: Processes for a large corpus; None: as many as there are cores, or none where the fast tokenizer
            uses them. A small one is done in this process.
        info: What the task keeps with the store, plain JSON; part of the store's name.

    Raises:
        DataError: If a record is wrong, or there are none. Nothing is left behind.
        ResourceError: If the disk is full or the cache cannot be written; then, too.
    """
    info = info or {}
    name = xxhash.xxh3_128_hexdigest(f"{FORMAT}:{encoder.fingerprint}:{key}:{sorted(info.items())}".encode())
    folder = cache_root(cache_dir) / "tokens" / name
    if folder.exists():
        try:
            return TokenStore(folder)
        except DataError as error:
            log.warning("%s; it is prepared anew", error)
            withdraw(folder)
    with claimed(folder) as partial:
        if partial is not None:  # else another process has just finished it
            try:
                try:
                    _write(partial, folder, source, encoder, progress, num_workers, info)
                except TokenizersDifferError as difference:
                    if not isinstance(encoder, TextEncoder):
                        raise
                    log.warning("gigatoken does not give the ids of tokenizers (%s); everything is tokenized anew without it", difference)
                    for path in (partial / "journal.jsonl", *(partial / "store").iterdir()):
                        path.unlink()
                    _write(partial, folder, source, encoder.slower(), progress, num_workers, info)
            except (DataError, OSError) as error:
                shutil.rmtree(partial, ignore_errors=True)
                if isinstance(error, OSError):
                    raise cannot_write(folder, error) from error
                raise
    return TokenStore(folder)


def _write(
    partial: Path,
    folder: Path,
    source: Source,
    encoder: Encoder,
    progress: Progress | None,
    num_workers: int | None,
    info: dict[str, Any],
) -> None:
    """Write what is missing into ``partial`` and publish it as ``folder``."""
    staging = partial / "store"
    writer = StoreWriter(staging, partial / "journal.jsonl", encoder)
    try:
        if writer.done.num_documents:
            log.info("going on after %s documents that are prepared already", f"{writer.done.num_documents:,}")
        if num_workers is None and isinstance(encoder, TextEncoder) and encoder.is_fast:
            num_workers = 1  # it has threads for the cores, and to other processes texts are sent more slowly than it tokenizes
        made = encoded(batches(source.read(writer.done.mark), size_of), encoder, num_workers)
        for rows, mark in _hinting(made) if isinstance(encoder, TextEncoder) else made:
            writer.append(rows, mark)
            if progress is not None:
                progress(writer.done.num_documents, f"tokenizing, {writer.done.num_tokens:,} tokens", source.fraction(mark))
        writer.finish(info)
    finally:
        writer.close()
    for file in sorted(staging.iterdir()):
        fsync_file(file)
    fsync_folder(staging)
    staging.rename(folder)
    fsync_folder(folder.parent)


def _hinting(made: Iterator[tuple[Rows, Any]]) -> Iterator[tuple[Rows, Any]]:
    """The same; who waits for it long without the fast tokenizer is told of it, once."""
    start, is_told = time.monotonic(), importlib.util.find_spec("gigatoken") is not None
    for part in made:
        yield part
        if not is_told and time.monotonic() - start > _LONG:
            is_told = True
            log.info(
                "the package gigatoken tokenizes many times as fast, with the same ids: pip install 'ironloom[fast]' "
                "(if this is ended, the same command goes on from here)"
            )
