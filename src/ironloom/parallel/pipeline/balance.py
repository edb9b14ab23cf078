"""Dividing a row of costs into parts of nearly equal sums."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def balanced(costs: Sequence[float], parts: int) -> list[int]:
    """Cut a row so that the most expensive part costs as little as possible; no part is empty.

    Args:
        costs: Costs of the items in their order.
        parts: Number of parts, at most the number of items.

    Returns:
        The indices at which parts 1, 2, ... begin.
    """
    sums = [0.0, *itertools.accumulate(costs)]
    count = len(costs)
    # best[end]: the least maximum for the items before ``end``, and where the last of the parts begins.
    best = [(sums[end], 0) for end in range(count + 1)]
    history = [best]
    for part in range(1, parts):
        best = [
            min(((max(best[begin][0], sums[end] - sums[begin]), begin) for begin in range(part, end)), default=(float("inf"), 0))
            for end in range(count + 1)
        ]
        history.append(best)
    cuts: list[int] = []
    end = count
    for part in range(parts - 1, 0, -1):
        end = history[part][end][1]
        cuts.append(end)
    return cuts[::-1]
