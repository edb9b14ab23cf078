"""Stochastic gradient descent, PyTorch's, starting quickly."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from ironloom.optim.quick import Quick

_step = inspect.unwrap(torch.optim.SGD.step)


class SGD(Quick, torch.optim.SGD):
    """``torch.optim.SGD`` that starts quickly. Not fused: that kernel does not know weights of which each process has a part."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss: float | None = _step(self, closure)
        return loss
