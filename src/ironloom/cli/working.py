"""A sign of life for work that takes longer than a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

#: Seconds between two lines where the output is no terminal.
LINE_SECONDS = 10.0


class Report(Protocol):
    """What :func:`working` gives."""

    def __call__(self, done: int, step: str, fraction: float | None = None, /) -> None:
        """Show that ``done`` documents are done, what is being done and, where it is known, how much of it (0 to 1)."""


@contextmanager
def working(what: str) -> Iterator[Report]:
    """Show a bar in a terminal, a line now and then elsewhere.

    Yields:
        A function that is told how far the work has come.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)

            def show(done: int, step: str, fraction: float | None = None) -> None:
                total = None if fraction is None else 1.0
                bar.update(task, description=f"{what}: {step}, {done:,} documents", completed=fraction or 0.0, total=total)

            yield show
        return
    last = time.monotonic()

    def line(done: int, step: str, fraction: float | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            share = "" if fraction is None else f" ({fraction:.0%})"
            print(f"{what}: {step}, {done:,} documents{share}", file=sys.stderr, flush=True)

    yield line
