"""Adafactor: second moments as rows times columns."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ironloom.optim.whole import Whole

_step = inspect.unwrap(torch.optim.Adafactor.step)


class Adafactor(Whole, torch.optim.Adafactor):
    """``torch.optim.Adafactor`` (Shazeer and Stern 2018, arXiv:1804.04235) that also updates weights of which each process has a part.

    A matrix of n x m numbers has n + m numbers of state, which every process keeps whole.
    """

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, **options)

    def update(self) -> None:
        """Update plain tensors."""
        _step(self)
