"""Preferences that are on every machine with Python: what a function does, against what another one does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import xxhash

from ironloom.data.chat.docstrings import docstrings, identity

_GROUP = 4


def records() -> Iterator[dict[str, Any]]:
    """A few functions of different modules at a time, each with its docstring preferred to that of each other one.

    So every docstring is right as often as it is wrong, and nothing in itself tells which it is. The groups come in an order
    that mixes the modules; what belongs to a group stands together, so that a split of the data keeps it together.
    """
    found = docstrings()
    groups = len(found) // _GROUP
    for number in sorted(range(groups), key=lambda number: xxhash.xxh3_64_intdigest(str(number).encode())):
        for (signature, right), (_, wrong) in itertools.permutations(found[number : _GROUP * groups : groups], 2):
            yield {"prompt": f"What does this function do?\n{signature}", "chosen": right, "rejected": wrong}


def pair_identity() -> str:
    """What identifies them."""
    return f"pairs:{_GROUP}:{identity()}"


PAIRS = {"python-docstrings": (records, pair_identity)}
