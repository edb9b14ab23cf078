"""Several models, optimizers or schedules as one, for a loop and for checkpoints that know one of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ironloom.errors import ConfigError
from ironloom.trainer.optimizer_state import load_schedule


class ModelGroup(nn.Module):
    """Models by name. In checkpoints their weights stand under these names.

    A model of which nothing is trained (a teacher) stays in the mode that it was given in.
    """

    def __init__(self, models: Mapping[str, nn.Module]):
        super().__init__()
        for name, model in models.items():
            self.add_module(name, model)

    def train(self, mode: bool = True) -> ModelGroup:
        """Set the mode of those that are trained."""
        self.training = mode
        for model in self.children():
            if not mode or any(parameter.requires_grad for parameter in model.parameters()):
                model.train(mode)
        return self


class Optimizers(Optimizer):
    """Optimizers of different parameters. Their state is one, so that it can be saved by parameter name."""

    def __init__(self, optimizers: Sequence[Optimizer]):
        # Not Optimizer's own: groups and state are those of the parts.
        self.parts = list(optimizers)
        seen: set[int] = set()
        for optimizer in self.parts:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            if seen & held:
                raise ConfigError("two optimizers hold the same parameter: give each of them models, or groups, of its own")
            seen |= held

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of all parts."""
        return [group for optimizer in self.parts for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """That of all parts."""
        return {parameter: state for optimizer in self.parts for parameter, state in optimizer.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step all parts."""
        assert closure is None, "the loop has computed the loss"
        for optimizer in self.parts:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parts."""
        for optimizer in self.parts:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, their parameters numbered through."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for offset, raw in zip(self._offsets(), (optimizer.state_dict() for optimizer in self.parts), strict=True):
            state.update({offset + number: value for number, value in raw["state"].items()})
            groups += [{**group, "params": [offset + number for number in group["params"]]} for group in raw["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part its own of what :meth:`state_dict` returned."""
        groups = iter(state_dict["param_groups"])
        for offset, optimizer in zip(self._offsets(), self.parts, strict=True):
            mine = [next(groups) for _ in optimizer.param_groups]
            numbers = {number for group in mine for number in group["params"]}
            optimizer.load_state_dict(
                {
                    "state": {number - offset: value for number, value in state_dict["state"].items() if number in numbers},
                    "param_groups": [{**group, "params": [number - offset for number in group["params"]]} for group in mine],
                }
            )

    def _offsets(self) -> list[int]:
        sizes = [sum(len(group["params"]) for group in optimizer.param_groups) for optimizer in self.parts]
        return [sum(sizes[:index]) for index in range(len(sizes))]


def one_optimizer(optimizers: Sequence[Optimizer]) -> Optimizer:
    """The only optimizer, or all of them as one; its class is called by their classes, which a resumed run must have too."""
    if len(optimizers) == 1:
        return optimizers[0]
    kinds = "+".join(type(optimizer).__name__ for optimizer in optimizers)
    united: Optimizer = type(kinds, (Optimizers,), {})(optimizers)
    return united


class Schedulers:
    """Schedules of different optimizers.

    Raises:
        ConfigError: If one of them follows evaluations, which is done for a single schedule only.
    """

    def __init__(self, schedulers: Sequence[Any]):
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise ConfigError("ReduceLROnPlateau beside another schedule is not available: step it in a callback's on_evaluate")
        self.parts = list(schedulers)

    def step(self) -> None:
        """Advance all of them."""
        for scheduler in self.parts:
            scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Their states, in order."""
        return {"parts": [scheduler.state_dict() for scheduler in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        for scheduler, state in zip(self.parts, state_dict["parts"], strict=True):
            load_schedule(scheduler, state)


def one_scheduler(schedulers: Sequence[Any]) -> Any:
    """The only schedule, or all of them as one; None if there is none."""
    return Schedulers(schedulers) if len(schedulers) > 1 else next(iter(schedulers), None)


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """The parameters that an optimizer trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
