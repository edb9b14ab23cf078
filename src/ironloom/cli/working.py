"""A sign of life for work that takes longer than a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between two lines where the output is no terminal.
LINE_SECONDS = 10.0


@contextmanager
def working(what: str) -> Iterator[Callable[[int, str], None]]:
    """Show a spinner in a terminal, a line now and then elsewhere.

    Yields:
        A function that is told how many documents are done, and what is being done.
    """
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(what) as status:
            yield lambda done, step: status.update(f"{what}: {step}, {done:,} documents")
        return
    last = time.monotonic()

    def line(done: int, step: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(f"{what}: {step}, {done:,} documents", file=sys.stderr, flush=True)

    yield line
