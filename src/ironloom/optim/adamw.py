"""PyTorch's AdamW without the compiler that its methods import.

``torch.optim`` wraps its methods so that ``torch.compile`` leaves them alone, and the wrappers import
the compiler when they are first called: about two seconds at every start, and some microseconds a
step. Here the same methods are used without their wrappers, and the arithmetic is PyTorch's fused kernel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Adam, Optimizer

_step = inspect.unwrap(Adam.step)


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(..., fused=True)`` that starts quickly (Loshchilov and Hutter, 2019)."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, fused=True, **options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros; without the profiler's record of it."""
        if not set_to_none:
            inspect.unwrap(Optimizer.zero_grad)(self, set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss: float | None = _step(self, closure)
        return loss
