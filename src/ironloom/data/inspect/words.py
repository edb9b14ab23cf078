"""What is said of a store in the terminal and on the page alike."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.data.inspect.report import Report, StoreReport

_PACKINGS = {"none": "a row for each document", "concat": "packed as concat", "best_fit": "packed as best_fit"}


def facts(store: StoreReport, report: Report) -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which they are shown."""
    yield "documents", f"{store.documents:,}"
    yield "tokens", f"{store.tokens:,}"
    if store.lengths is not None:
        found = store.lengths
        shown = (
            f"min {found.min:,}",
            f"median {found.median:,.0f}",
            f"mean {found.mean:,.1f}",
            f"95% {found.p95:,.0f}",
            f"max {found.max:,}",
        )
        yield "tokens of a document", ", ".join(shown)
        yield "longer than a sequence", f"{store.longer:,} of {store.documents:,} ({store.longer / store.documents:.1%})"
    for packing in store.packings:
        cut = f", {packing.cut:,} documents are cut" if packing.cut else ""
        yield _PACKINGS[packing.kind], f"{packing.rows:,} rows, {packing.fill:.1%} filled{cut}"
    if store.trained is not None:
        weight = "" if store.weight is None else f", weighing {store.weight:,.6g} together"
        yield "trained tokens", f"{store.trained:,} ({1 - store.masked:.1%}){weight}, masked {store.masked:.1%}"
        yield "nothing to train on", f"{store.untrained:,} documents"
    yield "empty", f"{store.empty:,} documents"
    yield "vocabulary", f"{store.vocab_size:,} ids, {store.unused:,} ({store.unused / store.vocab_size:.1%}) do not occur"
    yield "outside the vocabulary", f"{store.outside:,} tokens"
    samples = store.documents // len(report.kinds)
    copies = store.duplicates.copies
    yield "copies", f"{copies:,} of {samples:,} samples ({copies / max(samples, 1):.1%})"
    if len(store.parts) > 1:
        yield "used for", ", ".join(f"{use} {start:,} to {stop - 1:,}" for use, (start, stop) in store.parts.items() if stop > start)
    for reason, number in store.counts.items():
        yield "while preparing", f"{number:,} {reason}"
    yield "fingerprint", store.fingerprint
    yield "folder", store.folder
