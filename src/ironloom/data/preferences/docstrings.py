"""Preferences that are on every machine with Python: what a function does, against what another one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import xxhash

from ironloom.data.chat.docstrings import docstrings, identity


def records() -> Iterator[dict[str, Any]]:
    """Two functions of different modules at a time, each with its docstring preferred to the other's.

    So every docstring is right once and wrong once, and nothing in itself tells which it is. The couples come in an order
    that mixes the modules; both pairs of a couple stand together, so that a split of the data keeps them together.
    """
    pairs = docstrings()
    half = len(pairs) // 2
    for number in sorted(range(half), key=lambda number: xxhash.xxh3_64_intdigest(str(number).encode())):
        couple = pairs[number], pairs[number + half]
        for (signature, right), (_, wrong) in (couple, couple[::-1]):
            yield {"prompt": f"What does this function do?\n{signature}", "chosen": right, "rejected": wrong}


def pair_identity() -> str:
    """What identifies them."""
    return f"pairs:1:{identity()}"


PAIRS = {"python-docstrings": (records, pair_identity)}
