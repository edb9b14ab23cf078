"""Updates that need whole tensors, of weights of which each process has a part."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch

from ironloom.optim.quick import Quick
from ironloom.weights.sharded import from_part, is_sharded, place, whole


class Whole(Quick, abc.ABC):
    """Base of optimizers whose arithmetic looks at whole matrices: norms of rows and columns, products.

    A tensor of which each process has a part is put together in all of them, updated there by the arithmetic of
    one process, and every process keeps its part. So the numbers do not depend on how weights are spread, at the cost of
    the communication, of as much arithmetic in each process as in one, and of the memory of one tensor at a time.
    """

    @abc.abstractmethod
    def update(self) -> None:
        """Update all parameters of ``param_groups``, which are plain tensors here."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters; ``closure`` is as in every PyTorch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            for group in groups:
                parts = [parameter for parameter in group["params"] if is_sharded(parameter)]
                plain = [parameter for parameter in group["params"] if not is_sharded(parameter)]
                self.param_groups = [{**group, "params": plain}]
                self.update()
                for parameter in parts:
                    self._update_together(parameter, group)
        finally:
            self.param_groups = groups
        return loss

    def _update_together(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        gathered = whole(parameter)
        gathered.grad = whole(parameter.grad)
        self.state[gathered] = {name: whole(value) if is_sharded(value) else value for name, value in self.state.pop(parameter, {}).items()}
        self.param_groups = [{**group, "params": [gathered]}]
        self.update()
        parameter.copy_(_part(parameter, gathered))
        self.state[parameter] = {
            name: _part(parameter, value) if isinstance(value, torch.Tensor) and value.shape == parameter.shape else value
            for name, value in self.state.pop(gathered).items()
        }


def _part(parameter: Any, full: torch.Tensor) -> torch.Tensor:
    """A whole tensor as it belongs to a parameter; a copy, so that the whole can be freed."""
    return from_part(parameter, full[place(parameter)].clone().to(parameter.to_local().device))
