"""Variables of the environment for the time of a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Within the block these variables have these values; None: they are not there. Afterwards they are as they were; others stay."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is not None:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
