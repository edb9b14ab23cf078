"""What is wrong with data, and what is only noteworthy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.data.inspect.report import Finding, Report, StoreReport
from ironloom.data.inspect.scan import Scan


def findings_of(report: Report, refusal: str, scans: Mapping[str, Scan]) -> list[Finding]:
    """What there is to look at, errors first.

    Args:
        report: Without findings.
        refusal: Why the data could not be prepared; empty if they could.
        scans: Where in the stores the faults are.
    """
    found = [*_broken(report), *_leaks(report)]
    if refusal and not found:
        found.append(Finding("error", "not_prepared", "", 1, refusal))
    for name, store in report.stores.items():
        found += _store(name, store, scans[name], len(report.kinds))
    return sorted(found, key=lambda finding: finding.level != "error")


def _broken(report: Report) -> Iterator[Finding]:
    for name, broken in report.broken.items():
        if broken.wrong:
            message = f"{broken.wrong:,} of {broken.records:,} records are broken"
            yield Finding("error", "broken_records", name, broken.wrong, message)
        for message in broken.unreadable:
            yield Finding("error", "unreadable_source", name, 1, message)


def _leaks(report: Report) -> Iterator[Finding]:
    for leak in report.leaks:
        what = f"{leak.samples:,} of {leak.of:,} samples of the {leak.use} data are in the training data"
        beside = f" ({leak.training})" if leak.training != leak.store else ""
        yield Finding("error", "leak", leak.store, leak.samples, f"{what}{beside}: the model will have seen them")


def _store(name: str, store: StoreReport, seen: Scan, unit: int) -> Iterator[Finding]:
    documents = f"of {store.documents:,} documents"
    if store.outside:
        message = f"{store.outside:,} tokens are outside the vocabulary of {store.vocab_size:,}, in document {_places(seen.with_outside)}"
        yield Finding("error", "outside_vocabulary", name, store.outside, message)
    if store.untrained:
        message = f"{store.untrained:,} {documents} have nothing to train on: {_places(seen.without_trained)}"
        yield Finding("error", "nothing_trained", name, store.untrained, message)
    if store.duplicates.copies:
        samples = store.documents // unit
        message = f"{store.duplicates.copies:,} of {samples:,} samples are copies of earlier ones"
        yield Finding("warning", "duplicates", name, store.duplicates.copies, message)
    if store.longer:
        yield Finding("warning", "long_documents", name, store.longer, f"{store.longer:,} {documents} are longer than a sequence")
    if store.empty:
        yield Finding("warning", "empty_documents", name, store.empty, f"{store.empty:,} {documents} are empty")
    for reason, number in store.counts.items():
        yield Finding("warning", "preparing", name, number, f"{number:,} {reason}")


def _places(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
