"""Lion: the sign of an interpolated momentum. Not in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ironloom.errors import ConfigError, Problem
from ironloom.optim.quick import Quick
from ironloom.weights.sharded import local_part


class Lion(Quick):
    """Evolved sign momentum (Chen et al. 2023, arXiv:2302.06675, program 1).

    For a gradient ``g``, momentum ``m`` (from zero) and weights ``w``::

        w = w - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g

    Every step has the size of the rate: the authors take a rate three to ten times smaller than AdamW's, and as much more decay.

    Args:
        params: Parameters, named ones, or groups of them.
        lr: Learning rate.
        betas: Of the update and of the momentum.
        weight_decay: Decay, apart from the gradient.

    Raises:
        ConfigError: For arguments out of range.
    """

    def __init__(self, params: Any, lr: float = 1e-4, betas: Iterable[float] = (0.9, 0.99), weight_decay: float = 0.0):
        beta1, beta2 = betas
        limits = {"lr": lr >= 0, "weight_decay": weight_decay >= 0, "betas": 0 <= beta1 < 1 and 0 <= beta2 < 1}
        problems = [Problem("is out of range", path=name) for name, is_right in limits.items() if not is_right]
        if problems:
            raise ConfigError(problems)
        super().__init__(params, {"lr": lr, "betas": (beta1, beta2), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            kinds: dict[Any, list[Any]] = {}
            for parameter in trained:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                kinds.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            for alike in kinds.values():
                self._update(alike, group)
        return loss

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Each number is updated by itself, so a process updates what it has of a tensor."""
        (beta1, beta2), lr = group["betas"], float(group["lr"])
        weights = [local_part(parameter) for parameter in parameters]
        gradients = [local_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
        moments = [local_part(self.state[parameter]["momentum"]) for parameter in parameters]
        updates = torch._foreach_lerp(moments, gradients, 1.0 - beta1)
        torch._foreach_sign_(updates)
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-lr)
        torch._foreach_lerp_(moments, gradients, 1.0 - beta2)
