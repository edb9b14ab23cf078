"""State of optimizers and schedules in checkpoints: by parameter name, and with what the configuration said of it.

What a run's configuration says counts: a rate, decay or beta that was changed since the checkpoint is the new
one. What the run itself arrived at (moments, the place in the schedule, values that a callback set) is restored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ironloom.errors import CheckpointError


def by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state with parameters called by their names in the model instead of by number."""
    names = _names(optimizer, model)
    raw = optimizer.state_dict()
    return {
        **raw,
        "optimizer": type(optimizer).__name__,
        "state": {names[index]: value for index, value in raw["state"].items()},
        "param_groups": [{**group, "params": [names[index] for index in group["params"]]} for group in raw["param_groups"]],
    }


def load_by_name(optimizer: Optimizer, model: nn.Module, saved: dict[str, Any]) -> None:
    """Load what :func:`by_name` made.

    Raises:
        CheckpointError: If the optimizer's kind, parameters or groups are not those that were saved.
    """
    kind = saved.get("optimizer", type(optimizer).__name__)
    if kind != type(optimizer).__name__:
        raise CheckpointError(
            f"the optimizer state is that of {kind}, but this run has {type(optimizer).__name__}; "
            "set restore_optimizer_state=False to start the optimizer anew"
        )
    names = _names(optimizer, model)
    numbers = {name: index for index, name in enumerate(names)}
    here = [[names[index] for index in group["params"]] for group in optimizer.state_dict()["param_groups"]]
    there = [group["params"] for group in saved["param_groups"]]
    if here != there:
        odd = sorted({name for group in here for name in group} ^ {name for group in there for name in group})
        what = f"it differs in {', '.join(odd[:5])}" if odd else "they are grouped in another way"
        raise CheckpointError(
            f"the optimizer state is of other parameters: {what}; set restore_optimizer_state=False to start the optimizer anew"
        )
    optimizer.load_state_dict(
        {
            **saved,
            "state": {numbers[name]: value for name, value in saved["state"].items()},
            "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in saved["param_groups"]],
        }
    )
    _keep_precision(optimizer, names, saved["state"])


def _keep_precision(optimizer: Optimizer, names: list[str], saved: dict[str, Any]) -> None:
    """Put back what PyTorch has rounded: it casts loaded state to the parameter's dtype."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimizer.state.get(parameter, {}).items():
            exact = saved[name][key]
            if isinstance(value, torch.Tensor) and value.dtype != exact.dtype:
                optimizer.state[parameter][key] = exact.to(value.device)


def _names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Name of each parameter of the optimizer, by its number in the state dict."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [known.get(id(parameter), f"parameter {index}") for index, parameter in enumerate(parameters)]


def load_schedule(scheduler: Any, saved: dict[str, Any]) -> None:
    """Put a schedule back to its place, over the rates that the optimizer's groups begin with now."""
    scheduler.load_state_dict(saved)
    if not isinstance(scheduler, LRScheduler):
        return
    groups = scheduler.optimizer.param_groups
    before = _base_rates(scheduler)
    bases = [group.get("initial_lr", rate) for group, rate in zip(groups, before, strict=True)]
    _set_base_rates(scheduler, bases)
    if isinstance(scheduler, LambdaLR):
        rates = [base * factor(scheduler.last_epoch) for base, factor in zip(bases, scheduler.lr_lambdas, strict=True)]
    else:
        last = zip(scheduler.get_last_lr(), bases, before, strict=True)
        rates = [rate if base == old else rate * base / old for rate, base, old in last]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = float(rate)


def _base_rates(scheduler: LRScheduler) -> list[float]:
    """The rates that a schedule multiplies; of one that is made of others, those of the first."""
    parts = getattr(scheduler, "_schedulers", None)
    return _base_rates(parts[0]) if parts else [float(rate) for rate in getattr(scheduler, "base_lrs", scheduler.get_last_lr())]


def _set_base_rates(scheduler: LRScheduler, rates: list[float]) -> None:
    for part in getattr(scheduler, "_schedulers", ()):
        _set_base_rates(part, rates)
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = list(rates)


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the configuration said of each parameter group: every plain value, its rate before any schedule."""
    return [
        {
            **{key: value for key, value in group.items() if key not in ("params", "initial_lr") and _is_plain(value)},
            "lr": float(group.get("initial_lr", group["lr"])),
        }
        for group in optimizer.param_groups
    ]


def follow(optimizer: Optimizer, configured: list[dict[str, Any]], saved: list[dict[str, Any]]) -> list[str]:
    """Set what the configuration says differently now than when the state was saved.

    Args:
        optimizer: With the restored state.
        configured: :func:`hyperparameters` of this run's optimizer before that.
        saved: Those of the optimizer whose state it is.

    Returns:
        One text for each difference, for people.
    """
    changes: dict[str, None] = {}
    for group, now, then in zip(optimizer.param_groups, configured, saved, strict=True):
        for key in now.keys() & then.keys():
            if _same(now[key], then[key]):
                continue
            group[key] = now[key]
            if key == "lr" and "initial_lr" in group:
                group["initial_lr"] = now[key]
            changes[f"the optimizer's {key} is {now[key]} in this configuration, it was {then[key]} when the checkpoint was saved"] = None
    return sorted(changes)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _same(one: Any, other: Any) -> bool:
    """Equality in which a tuple and a list are alike."""
    both_lists = isinstance(one, (list, tuple)) and isinstance(other, (list, tuple))
    return list(one) == list(other) if both_lists else bool(one == other)
