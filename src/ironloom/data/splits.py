"""Training data in three: what of it is for training, for evaluation and for the test. Knows no data, only lengths."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ironloom.errors import Problem

TRAINING, EVALUATION, TEST = PURPOSES = ("training", "evaluation", "test")


def split_ranges(num_tokens: int, splits: Sequence[float]) -> list[tuple[int, int]]:
    """Contiguous ranges of tokens in the proportions of ``splits``.

    Args:
        num_tokens: Length of the whole.
        splits: Shares of at least 0, with a sum of 1.

    Returns:
        One ``(start, stop)`` for each share, each starting where the one before stops; together they cover everything.
    """
    edges = [min(num_tokens, round(num_tokens * share)) for share in np.cumsum([0.0, *splits])]
    edges[-1] = num_tokens
    # A trailing share of zero gets nothing of what the rounding of its forerunners leaves.
    for place in range(len(splits) - 1, 0, -1):
        if splits[place] > 0:
            break
        edges[place] = num_tokens
    return list(itertools.pairwise(edges))


def shares_of(splits: Sequence[float], own: Collection[str]) -> tuple[float, float, float]:
    """The shares of the training data that are for each of ``PURPOSES``, where those in ``own`` have data of their own."""
    evaluation, test = (0.0 if purpose in own else share for purpose, share in zip(PURPOSES[1:], splits[1:], strict=True))
    return 1 - evaluation - test, evaluation, test


def split_problems(splits: Any) -> Iterator[Problem]:
    """What is wrong with the shares of training, evaluation and test."""
    if len(splits) != 3 or any(share < 0 for share in splits) or abs(sum(splits) - 1) > 1e-6:
        yield Problem(f"expected three shares of at least 0 whose sum is 1, found {list(splits)}", path="splits")
    elif splits[0] == 0:
        yield Problem("the share of training data is 0", path="splits")
