"""Readers of single files: each yields the texts of one file and names file and line of what is wrong in it.

What is wrong with one record is yielded in its place, as the error that names it: so all of them can be counted. What is
wrong with the file is raised. A file may be compressed, ``.gz`` or ``.zst``.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ironloom.errors import DataError
from ironloom.settings.parts import COMPRESSED

_CSV_FIELD_LIMIT = 2**31 - 1
_ZSTD_BUFFER = 1 << 20
_PARQUET_BATCH = 512  # rows in memory at a time
_BOM = b"\xef\xbb\xbf"
_OPEN: dict[Path, BinaryIO] = {}  # what is being read, as it lies on the disk

Text = str | tuple[str, Any] | DataError
"""The text of a record, or what is wrong with it. Where no column is named: the place of the record, and the record."""


def read_txt(path: Path, text_column: str | None) -> Iterator[Text]:
    """The whole file as one document."""
    with _opened(path) as file:
        content = file.read()
    if not content:
        raise _empty(path)
    content = content.removeprefix(_BOM)
    try:
        yield content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _bad_utf8(f"{path}:{line}", error) from error


def read_jsonl(path: Path, text_column: str | None) -> Iterator[Text]:
    """One JSON object in each line; blank lines are passed over."""
    for number, line in _lines(path):
        if isinstance(line, DataError):
            yield line
        elif line.strip():
            try:
                yield text_of(_parsed(line.rstrip("\r\n"), path, number), text_column, f"{path}:{number}")
            except DataError as error:
                yield error


def read_json(path: Path, text_column: str | None) -> Iterator[Text]:
    """A list of objects, one object, or objects line by line."""
    (content,) = read_txt(path, text_column)
    assert isinstance(content, str)
    if content.lstrip()[:1] == "[":
        for number, record in enumerate(_parsed(content, path)):
            yield text_or_error(record, text_column, f"{path}: record {number}")
        return
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        yield from read_jsonl(path, text_column)
        return
    yield text_or_error(record, text_column, str(path))


def read_csv(path: Path, text_column: str | None) -> Iterator[Text]:
    """Comma-separated values with a header; a field may hold line breaks when it is quoted."""
    csv.field_size_limit(_CSV_FIELD_LIMIT)  # a document may be longer than the default of 128 KiB
    with contextlib.closing(_lines(path)) as lines:  # else an error that lives on would keep the file open
        rows = csv.reader(_raised(line for _, line in lines), strict=True)
        try:
            header = next(rows)
            for row in rows:
                place = f"{path}:{rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    yield DataError(f"{place}: {len(row)} fields, but the header has {len(header)}")
                else:
                    yield text_or_error(dict(zip(header, row, strict=True)), text_column, place)
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: not valid CSV: {error}") from error


def read_parquet(path: Path, text_column: str | None) -> Iterator[Text]:
    """One column of a Parquet file, a few hundred rows at a time."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        if path.stat().st_size == 0:
            raise _empty(path)
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column is not None and text_column not in names:
                raise _no_column(str(path), text_column, names)
            columns = None if text_column is None else [text_column]
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                for row in batch.to_pylist():
                    yield text_or_error(row, text_column, f"{path}: row {number}")
                    number += 1
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a complete Parquet file (at row {number}): {error}") from error


READERS: dict[str, Callable[[Path, str | None], Iterator[Text]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def reader_of(path: Path) -> Callable[[Path, str | None], Iterator[Text]] | None:
    """The reader for a file of this name; None if there is none."""
    if path.suffix.lower() not in COMPRESSED:
        return READERS.get(path.suffix.lower())
    kind = path.with_suffix("").suffix.lower()
    return READERS.get(kind) if kind != ".parquet" else None


def kinds() -> str:
    """The kinds of file that can be read, for messages."""
    return f"{', '.join(READERS)}; compressed as {', '.join(COMPRESSED)}"


def text_or_error(record: Any, text_column: str | None, place: str) -> Text:
    """The text of one record, or what :func:`text_of` raises."""
    try:
        return text_of(record, text_column, place)
    except DataError as error:
        return error


def text_of(record: Any, text_column: str | None, place: str) -> str | tuple[str, Any]:
    """The text of one record, or the whole of it.

    Args:
        record: What was read.
        text_column: The field that holds the text; None: the record is wanted as it is, with its place.
        place: File and line, for the message.

    Raises:
        DataError: If the record has no such field, or it is not a text that can be encoded as UTF-8.
    """
    if text_column is None:
        return place, record
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: expected an object with a field {text_column!r}, found {_shown(record)}")
    if text_column not in record:
        raise _no_column(place, text_column, record)
    text = record[text_column]
    if not isinstance(text, str):
        raise DataError(f"{place}: expected a text in {text_column!r}, found {_shown(text)}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise DataError(f"{place}: {text_column!r} holds half of a surrogate pair (at character {error.start})") from error
    return text


def _lines(path: Path) -> Generator[tuple[int, str | DataError]]:
    """Numbered lines, with their ends, or what is wrong with a line.

    Raises:
        DataError: If the file cannot be read or is empty.
    """
    number = 0
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(_BOM) if number == 1 else line
            try:
                decoded: str | DataError = text.decode("utf-8")
            except UnicodeDecodeError as error:
                decoded = _bad_utf8(f"{path}:{number}", error)
            yield number, decoded
    if number == 0:
        raise _empty(path)


def _raised(lines: Iterable[str | DataError]) -> Iterator[str]:
    """Lines of which every one is needed."""
    for line in lines:
        if isinstance(line, DataError):
            raise line
        yield line


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file opened for reading, decompressed if its name says so.

    Raises:
        DataError: If it cannot be read, or the compressed content is damaged or ends too early.
    """
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as plain:
            _OPEN[path] = plain
            if suffix == ".gz":
                with gzip.open(plain) as file:
                    yield file  # type: ignore[misc]
            elif suffix == ".zst":
                import pyarrow

                with pyarrow.CompressedInputStream(plain, "zstd") as stream:
                    yield io.BufferedReader(stream, _ZSTD_BUFFER)
            else:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut off: {error}") from error
    except OSError as error:
        if suffix == ".zst" and error.errno is None:  # as the library reports what it cannot decompress
            raise DataError(f"{path}: damaged or cut off: {error}") from error
        raise _unreadable(path, error) from error
    finally:
        _OPEN.pop(path, None)


def position(path: Path) -> int | None:
    """Bytes that have been read of a file that is being read now; None if it is not, or is none that is read in order."""
    file = _OPEN.get(path)
    return None if file is None else file.tell()


def _parsed(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(f"{path}:{line}: not valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise DataError(f"{path}:{first_line}: not readable as JSON: {error}") from error


def _no_column(place: str, text_column: str | None, columns: Any) -> DataError:
    names = ", ".join(map(str, columns))
    return DataError(f"{place}: no column {text_column!r}; there is {names or 'none'} (set text_column)")


def _bad_utf8(place: str, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(f"{place}: not UTF-8: byte 0x{byte:02x} ({error.reason}); convert the file to UTF-8")


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: the file is empty")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
