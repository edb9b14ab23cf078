"""Adam and AdamW in PyTorch's fused kernel, starting quickly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ironloom.optim.quick import Quick

_step = inspect.unwrap(torch.optim.Adam.step)


class AdamW(Quick, torch.optim.AdamW):
    """``torch.optim.AdamW(..., fused=True)`` that starts quickly (Loshchilov and Hutter, 2019)."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, fused=True, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss: float | None = _step(self, closure)
        return loss


class Adam(Quick, torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)`` that starts quickly: weight decay is part of the gradient (Kingma and Ba, 2015)."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, fused=True, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss: float | None = _step(self, closure)
        return loss
