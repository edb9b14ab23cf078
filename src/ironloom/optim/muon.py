"""Muon: matrices are updated by the orthogonal factor of their momentum, everything else by AdamW."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from ironloom.optim.adamw import AdamW
from ironloom.optim.quick import Quick
from ironloom.optim.whole import Whole

_step = inspect.unwrap(torch.optim.Muon.step)


class Matrices(Whole, torch.optim.Muon):
    """``torch.optim.Muon`` that also updates matrices of which each process has a part."""

    def update(self) -> None:
        """Update plain matrices."""
        _step(self)


class Muon(Quick):
    """Muon for matrices (Jordan et al. 2024) and AdamW for the rest, as one optimizer with one state.

    The update of a matrix is scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that one
    learning rate and one decay suit both. Groups of matrices come first; a group is a part of one of the two.

    Args:
        matrices: Parameters of two dimensions, named ones, or groups of them.
        others: The rest, likewise.
        lr: Learning rate of both.
        momentum: Of matrices; Nesterov's.
        betas: Of the rest.
        eps: Of the rest.
        weight_decay: Of groups that have none of their own.
    """

    def __init__(
        self,
        matrices: Iterable[Any],
        others: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        matrices, others = list(matrices), list(others)
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(Matrices(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up a group of one of the two; afterwards there is none to choose.

        Raises:
            ValueError: For a group that comes later.
        """
        if len(self.param_groups) == sum(len(part.param_groups) for part in self._parts):
            raise ValueError("Muon takes its groups when it is made: matrices, and others for AdamW")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        start = 0
        for part in self._parts:
            # Groups and state are this optimizer's: loading and schedules replace or change them.
            end = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:end], self.state
            part.step()
            start = end
        return loss
