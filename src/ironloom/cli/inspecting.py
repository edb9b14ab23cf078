"""What ``ironloom data inspect`` shows in the terminal, and where it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from ironloom.atomic import write_bytes_atomic
from ironloom.data.inspect import Report, page
from ironloom.data.inspect.lengths import Lengths
from ironloom.data.inspect.records import Broken
from ironloom.data.inspect.report import StoreReport
from ironloom.data.inspect.text import Sample, Segment, visible
from ironloom.data.inspect.words import facts
from ironloom.errors import ResourceError

_BAR = 40  # characters of the longest bar
STDOUT = "-"

Line = list[tuple[str, str]]
"""Pieces of text, each with a style."""


def write(report: Report, as_json: str | None, as_html: str | None) -> None:
    """Print the report, and write it to files; where one is ``-``, that is printed in place of the report.

    Raises:
        ResourceError: If a file cannot be written.
    """
    texts = {"json": json.dumps(report.to_json(), indent=2) + "\n" if as_json else "", "html": page(report) if as_html else ""}
    if STDOUT not in (as_json, as_html):
        _print(report)
    for kind, file in (("json", as_json), ("html", as_html)):
        if file == STDOUT:
            sys.stdout.buffer.write(texts[kind].encode())
        elif file is not None:
            _write(Path(file), texts[kind])
            if STDOUT not in (as_json, as_html):
                print(f"written to {file}")


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(file, text.encode())
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from error


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    encoding = console.encoding or "utf-8"
    for line in lines(report):
        text = Text.assemble(*((piece.encode(encoding, "backslashreplace").decode(encoding), style) for piece, style in line))
        console.print(text, soft_wrap=True)


def lines(report: Report) -> Iterator[Line]:
    """The whole report, without anything that a terminal would obey."""
    for name, store in report.stores.items():
        yield [(visible(name), "bold")]
        yield from _store(store, report)
        yield [("", "")]
    for name, broken in report.broken.items():
        yield from _broken(name, broken)
    for leak in report.leaks:
        beside = f" of {leak.training}" if leak.training != leak.store else ""
        yield [(f"{leak.store}: {leak.use} data that are in the training data{beside}", "bold")]
        for same in leak.first:
            yield [(f"  sample {same.sample:,} is training sample {same.training_sample:,}: {_one_line(same.text)}", "")]
        yield [("", "")]
    for finding in report.findings:
        where = f"{finding.where}: " if finding.where else ""
        for text in finding.message.splitlines():
            yield [(f"{finding.level}: ", "red" if finding.level == "error" else "yellow"), (visible(f"{where}{text}"), "")]
    if report.is_good:
        yield [("nothing is wrong", "green")]


def _store(store: StoreReport, report: Report) -> Iterator[Line]:
    found = list(facts(store, report))
    width = max(len(name) for name, _ in found)
    for name, value in found:
        yield [(f"  {name:<{width}}  {visible(value)}", "")]
    if store.lengths is not None:
        yield from _histogram(store.lengths)
    for each in store.duplicates.most:
        yield [(f"  {each.times:,} times, first as sample {each.sample:,}: {_one_line(each.text)}", "")]
    for sample in store.samples:
        yield from _sample(sample)
    for row in store.rows:
        yield [(f"  row {row.row:,}, in which {len(row.pieces):,} documents meet:", "bold")]
        for piece in row.pieces:
            tokens = f"tokens {piece.start:,} to {piece.start + piece.tokens - 1:,}"
            yield [(f"    {tokens} of document {piece.document:,} | {_one_line(piece.text)}", "")]


def _histogram(lengths: Lengths) -> Iterator[Line]:
    yield [("  documents by their tokens:", "")]
    most = max(each.documents for each in lengths.histogram)
    width = len(f"{lengths.histogram[-1].last:,}")
    for each in lengths.histogram:
        bar = "#" * -(-each.documents * _BAR // most)
        yield [(f"  {each.first:>{width},} to {each.last:>{width},} | {bar:<{_BAR}} {each.documents:,}", "")]


def _broken(name: str, broken: Broken) -> Iterator[Line]:
    yield [(f"{visible(name)}: {broken.records:,} records, {broken.wrong:,} of them broken, {broken.empty:,} without text", "bold")]
    more = [f"and {broken.wrong - len(broken.shown):,} more"] if broken.wrong > len(broken.shown) else []
    for text in (*broken.shown, *more, *broken.unreadable):
        yield [(f"  {visible(text)}", "")]
    yield [("", "")]


def _sample(sample: Sample) -> Iterator[Line]:
    """A document, each line of which begins with ``+`` where the model has to produce it, so that this is seen without colours.

    Behind it stands how much this counts, if it is not 1.
    """
    label = f" ({sample.label})" if sample.label else ""
    yield [(f"  document {sample.document:,}{label}, {sample.tokens:,} tokens:", "bold")]
    for segment in sample.segments:
        mark, style = (" ", "dim")
        if segment.trained:
            mark, style = "+" if segment.weight == 1 else f"+{segment.weight:g}", "green"
        for line in _shown(segment).removesuffix("\n").split("\n"):
            yield [(f"  {mark} | ", style), (line, f"bold {style}" if segment.kind == "special" else style)]


def _shown(segment: Segment) -> str:
    return f"... {segment.tokens:,} more tokens ..." if segment.kind == "gap" else visible(segment.text)


def _one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n")
