"""Finds what hooks assign to attributes, so that nothing has to be registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ironloom.errors import ConfigError


class Tracker:
    """An object that remembers which attributes of certain kinds were assigned while somebody listened."""

    @contextmanager
    def _tracked(self, kinds: type | tuple[type, ...], taken: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
        """Within the block attributes of these kinds are noted in what is yielded, by name.

        Args:
            kinds: Classes.
            taken: Names that the trainer itself needs, unless there is only one attribute.

        Raises:
            ConfigError: If there are several and one of them has such a name.
        """
        found: dict[str, Any] = {}
        vars(self)["_listening"] = (kinds, found)
        try:
            yield found
        finally:
            vars(self)["_listening"] = None
        clash = [name for name in taken if name in found]
        if clash and len(found) > 1:
            raise ConfigError(f"among several, none may be called {clash[0]}, which is the trainer's name for all of them: rename it")

    def __setattr__(self, name: str, value: Any) -> None:
        listening = vars(self).get("_listening")
        if listening is not None and isinstance(value, listening[0]):
            listening[1][name] = value
        object.__setattr__(self, name, value)


def optimizers_of(returned: Any, found: Mapping[str, Any], models: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    """The optimizers of ``configure_optimizers`` by name: those it assigned, and those it returned.

    Args:
        returned: An optimizer, several, a dict of them by model or name, or None.
        found: Attributes that it assigned.
        models: By name.

    Raises:
        ConfigError: If there are none, or something else was returned.
    """
    named = dict(found)
    for name, value in _items(returned, models):
        if not isinstance(value, Optimizer):
            raise ConfigError(f"configure_optimizers must return optimizers, it returned a {type(value).__name__}")
        if all(value is not known for known in named.values()):
            named[name] = value
    if not named:
        raise ConfigError("configure_optimizers gave no optimizer: return one, or {model: optimizer}, or assign it to an attribute")
    held = {id(parameter) for model in models.values() for parameter in model.parameters()}
    for name, optimizer in named.items():
        if held.isdisjoint(id(parameter) for group in optimizer.param_groups for parameter in group["params"]):
            raise ConfigError(f"{name} holds no parameter of the models: make it of their parameters in configure_optimizers")
    return named


def schedulers_of(returned: Any, found: Mapping[str, Any], optimizers: Mapping[str, Optimizer]) -> list[tuple[Any, Optimizer]]:
    """The schedules of ``configure_schedulers`` with their optimizers.

    Args:
        returned: A schedule, several, a dict of them by optimizer or its name, or None.
        found: Attributes that it assigned.
        optimizers: By name.

    Raises:
        ConfigError: If one of them has no optimizer of the run.
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(returned, Mapping):
        for key, scheduler in returned.items():
            pairs.append((scheduler, optimizers.get(key) if isinstance(key, str) else key))
    else:
        pairs = [(scheduler, getattr(scheduler, "optimizer", None)) for _, scheduler in _items(returned, {})]
    known = {id(scheduler) for scheduler, _ in pairs}
    pairs += [(scheduler, getattr(scheduler, "optimizer", None)) for scheduler in found.values() if id(scheduler) not in known]
    only = next(iter(optimizers.values()))
    for index, (scheduler, optimizer) in enumerate(pairs):
        if optimizer is None and len(optimizers) == 1:
            pairs[index] = (scheduler, only)
        elif all(optimizer is not each for each in optimizers.values()):
            raise ConfigError(f"configure_schedulers: whose schedule is {type(scheduler).__name__}? Return {{optimizer: schedule}}")
    return pairs


def _items(returned: Any, models: Mapping[str, nn.Module]) -> list[tuple[str, Any]]:
    if returned is None:
        return []
    if isinstance(returned, Mapping):
        names = {id(model): name for name, model in models.items()}
        return [
            (key if isinstance(key, str) else names.get(id(key), f"optimizer_{index}"), value)
            for index, (key, value) in enumerate(returned.items())
        ]
    if isinstance(returned, list | tuple):
        return [(f"optimizer_{index}", value) for index, value in enumerate(returned)]
    return [("optimizer", returned)]


SCHEDULES = (LRScheduler,)
