"""From the data of a configuration to the report on them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ironloom.data.chat.encoder import RowEncoder
from ironloom.data.chat.sources import RecordSource
from ironloom.data.entries import Corpus
from ironloom.data.inspect.duplicates import Duplicates, Leak, Part, Repeated, Same, repeated, shared, uses
from ironloom.data.inspect.findings import findings_of
from ironloom.data.inspect.lengths import lengths_of
from ironloom.data.inspect.records import Broken, broken_in
from ironloom.data.inspect.report import Finding, Report, StoreReport
from ironloom.data.inspect.rows import concatenated, packings
from ironloom.data.inspect.scan import Scan, scan
from ironloom.data.inspect.text import Reader, spread
from ironloom.data.store import Progress, TokenStore
from ironloom.data.task_data import TaskData
from ironloom.errors import DataError


def inspect_data(
    data: TaskData[Any],
    configuration: str,
    asked: Collection[str] = ("eval", "test"),
    samples: int = 3,
    progress: Progress | None = None,
) -> Report:
    """Prepare what is not prepared, and look at all of it.

    Where it cannot be prepared, because something is wrong with the sources, these are read to their end, and what is wrong with
    them is the report.

    Args:
        data: The data of a configuration, see ``cli.data.data_of``.
        configuration: Its name, for the report.
        asked: What held-out data a run asks for and must therefore get, of ``eval`` and ``test``.
        samples: Samples of each store to show.
        progress: Called now and then with the number of documents or records done, and what is being done.

    Raises:
        ConfigError: If the configuration cannot be used.
        ResourceError: If the cache cannot be written.
    """
    report = Report(configuration, tuple(data.types), data.seq_length)
    try:
        data.prepare(progress)
        stores: Mapping[str, TokenStore] = data.stores
    except DataError as error:
        report = dataclasses.replace(report, broken=_broken(data, progress))
        return dataclasses.replace(report, findings=findings_of(report, str(error), {}))
    unit, reader = len(data.types), Reader(data.tokenizer)
    faults = list(_faults(data, asked))
    scans, ranges = {}, data.ranges
    for name, store in stores.items():
        try:
            store.verify()
            scans[name] = scan(store, unit, data.tokenizer.eos_token_id, progress)
        except DataError as error:  # nothing that stands in it can be believed
            faults.append(Finding("error", "damaged_store", name, 1, str(error)))
    reports = {
        name: _store_report(stores[name], seen, ranges[name], data.types, data.seq_length, samples, reader) for name, seen in scans.items()
    }
    parts = [Part(name, use, start, seen.hashes[start:stop]) for name, seen in scans.items() for use, (start, stop) in ranges[name].items()]
    leaks = _leaks(parts, stores, unit, reader)
    report = dataclasses.replace(report, stores=reports, leaks=leaks)
    return dataclasses.replace(report, findings=[*faults, *findings_of(report, "", scans)])


def _broken(data: TaskData[Any], progress: Progress | None) -> dict[str, Broken]:
    """What is wrong with the records of all sources; where all can be read, which of them cannot be rendered."""
    sources = {name: source for name, source in data.sources.items() if isinstance(source, Corpus | RecordSource)}
    found = {name: broken_in(source, progress) for name, source in sources.items()}
    if any(broken.wrong or broken.unreadable for broken in found.values()):
        return found
    with contextlib.suppress(DataError):  # the tokenizer is what cannot be made; that is told already
        encoder, _ = data.encoder(progress)
        if isinstance(encoder, RowEncoder):
            return {name: broken_in(source, progress, lambda record: encoder.rows_of(record, {})) for name, source in sources.items()}
    return found


def _faults(data: TaskData[Any], asked: Collection[str]) -> Iterator[Finding]:
    """What is wrong with the held-out data as a whole, such as too few of them."""
    for name in sorted({"eval", "test"}.intersection(asked)):
        try:
            getattr(data, name)
        except DataError as error:
            yield Finding("error", "unusable", "", 1, str(error))


def _store_report(
    store: TokenStore,
    seen: Scan,
    parts: dict[str, tuple[int, int]],
    kinds: tuple[str, ...],
    seq_length: int,
    samples: int,
    reader: Reader,
) -> StoreReport:
    lengths = np.diff(store.offsets)
    # What is only given has no place of its own: the last token of a row is nothing but a target.
    most = seq_length + (store.trained is not None)
    copies, groups, most_frequent = repeated(seen.hashes)
    labels = [kind.rpartition("_")[2] if len(kinds) > 1 else "" for kind in kinds]
    unit = len(kinds)
    packed = list(packings(store, unit, seq_length))
    num_rows = sum(packing.rows for packing in packed if packing.kind == "concat")
    # One in which a document begins: that of the middle.
    rows = [min(int(store.offsets[store.num_documents // 2]) // seq_length, num_rows - 1)] if num_rows and samples else []
    return StoreReport(
        folder=str(store.folder),
        fingerprint=store.fingerprint,
        documents=store.num_documents,
        tokens=store.num_tokens,
        lengths=lengths_of(lengths) if len(lengths) else None,
        longer=int((lengths > most).sum()),
        packings=packed,
        trained=seen.trained,
        weight=seen.weight,
        masked=0.0 if seen.trained is None or not store.num_tokens else 1 - seen.trained / store.num_tokens,
        untrained=seen.untrained,
        empty=seen.empty,
        vocab_size=store.vocab_size,
        unused=int((seen.used == 0).sum()),
        outside=seen.outside,
        counts=dict(store.counts),
        duplicates=Duplicates(
            copies, groups, [Repeated(sample, times, reader.beginning(store, sample * unit)) for sample, times in most_frequent]
        ),
        parts=parts,
        samples=[
            reader.sample(store, number * unit + place, label)
            for number in spread(store.num_documents // unit, samples)
            for place, label in enumerate(labels)
        ],
        rows=[concatenated(store, row, seq_length, reader) for row in rows],
    )


def _leaks(parts: list[Part], stores: Mapping[str, TokenStore], unit: int, reader: Reader) -> list[Leak]:
    """What is in training and in held-out data alike, by pairs of parts."""
    found = []
    held_out = [*uses(parts, "evaluation"), *uses(parts, "test")]
    for training in uses(parts, "training") if held_out else []:
        ordered = np.sort(training.hashes)
        for part in held_out:
            number, first = shared(part, training, ordered)
            if number:
                same = [Same(here, there, reader.beginning(stores[part.store], here * unit)) for here, there in first]
                found.append(Leak(part.use, part.store, training.store, number, len(part.hashes), same))
    return found
