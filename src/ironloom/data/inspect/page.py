"""The report as one HTML file: no script, nothing from elsewhere, everything that comes from the data escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from ironloom.data.inspect.lengths import Lengths
from ironloom.data.inspect.report import Report, StoreReport
from ironloom.data.inspect.text import Sample, Segment, visible
from ironloom.data.inspect.words import facts

_STYLE = """
:root { color-scheme: light dark; --line: #8886;
  --trained: #1a7f37; --given: #6e7781; --error: #cf222e; --warning: #9a6700; --bar: #0969da; }
@media (prefers-color-scheme: dark) { :root {
  --trained: #56d364; --given: #8b949e; --error: #ff7b72; --warning: #e3b341; --bar: #58a6ff; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.bar { width: 30rem; }
td.bar div { background: var(--bar); height: .8rem; min-width: 1px; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
.error { color: var(--error); } .warning { color: var(--warning); } .trained { color: var(--trained); text-decoration: underline dotted; }
.given { color: var(--given); }
.special { font-weight: bold; border: 1px solid currentColor; border-radius: 4px; padding: 0 .15rem; } .gap { font-style: italic; }
"""

_LEGEND = 'In samples <span class="trained">this</span> is what the model has to produce, <span class="given">this</span> is given.'


def page(report: Report) -> str:
    """The whole page."""
    title = f"Data of {_text(report.configuration)}"
    body = "".join([
        f"<h1>{title}</h1>\n<p>Sequences of {report.seq_length:,} tokens; {_text(', '.join(report.kinds))}.</p>\n",
        _findings(report),
        *(_broken(report)),
        *(_leaks(report)),
        *(_store(name, store, report) for name, store in report.stores.items()),
    ])  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(visible(str(value)))


def _findings(report: Report) -> str:
    if not report.findings:
        return "<p>Nothing is wrong.</p>\n"
    rows = (
        f'<tr class="{_text(finding.level)}"><td>{_text(finding.level)}<td>{_text(finding.where)}<td>{_text(finding.message)}</tr>\n'
        for finding in report.findings
    )
    return f"<table>\n{''.join(rows)}</table>\n"


def _broken(report: Report) -> Iterator[str]:
    for name, broken in report.broken.items():
        more = [f"and {broken.wrong - len(broken.shown):,} more"] if broken.wrong > len(broken.shown) else []
        lines = "".join(f"<li>{_text(line)}</li>\n" for line in [*broken.shown, *more, *broken.unreadable])
        title = f"{_text(name)}: {broken.wrong:,} of {broken.records:,} records are broken"
        yield f"<section>\n<h2>{title}</h2>\n<ul>\n{lines}</ul>\n</section>\n"


def _leaks(report: Report) -> Iterator[str]:
    for leak in report.leaks:
        rows = _rows((f"sample {each.sample:,}", f"training sample {each.training_sample:,}", each.text) for each in leak.first)
        title = f"{_text(leak.use)} data of {_text(leak.store)} in the training data of {_text(leak.training)}"
        yield f"<section>\n<h2>{title}</h2>\n<p>{leak.samples:,} of {leak.of:,} samples.</p>\n<table>\n{rows}</table>\n</section>\n"


def _store(name: str, store: StoreReport, report: Report) -> str:
    parts = [f"<section>\n<h2>{_text(name)}</h2>\n<table>\n{_rows(facts(store, report))}</table>\n"]
    if store.lengths is not None:
        parts.append(f"<h3>Tokens of a document</h3>\n<table>\n{_histogram(store.lengths)}</table>\n")
    if store.duplicates.most:
        rows = _rows((f"{each.times:,} times", f"sample {each.sample:,}", each.text) for each in store.duplicates.most)
        parts.append(f"<h3>Copies</h3>\n<table>\n{rows}</table>\n")
    if store.samples:
        parts.append(f"<p>{_LEGEND}</p>\n")
    parts += map(_sample, store.samples)
    for row in store.rows:
        rows = _rows(
            (f"document {each.document:,}", f"tokens {each.start:,} to {each.start + each.tokens - 1:,}", each.text) for each in row.pieces
        )
        parts.append(f"<h3>Row {row.row:,}: {len(row.pieces):,} documents meet</h3>\n<table>\n{rows}</table>\n")
    return "".join(parts) + "</section>\n"


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"<tr>{''.join(f'<td>{_text(cell)}' for cell in row)}</tr>\n" for row in rows)


def _histogram(lengths: Lengths) -> str:
    most = max(each.documents for each in lengths.histogram)
    return "".join(
        f'<tr><td class="number">{each.first:,} - {each.last:,}<td class="number">{each.documents:,}'
        f'<td class="bar"><div style="width: {100 * each.documents / most:.1f}%"></div></tr>\n'
        for each in lengths.histogram
    )


def _sample(sample: Sample) -> str:
    label = f" ({_text(sample.label)})" if sample.label else ""
    text = "".join(map(_segment, sample.segments))
    return f"<h3>Document {sample.document:,}{label}: {sample.tokens:,} tokens</h3>\n<pre>{text}</pre>\n"


def _segment(segment: Segment) -> str:
    names = ("trained" if segment.trained else "given", *([segment.kind] if segment.kind != "text" else []))
    text = f" ... {segment.tokens:,} more tokens ... " if segment.kind == "gap" else _text(segment.text)
    title = "" if segment.weight == 1 else f' title="weight {segment.weight:g}"'
    return f'<span class="{" ".join(names)}"{title}>{text}</span>'
