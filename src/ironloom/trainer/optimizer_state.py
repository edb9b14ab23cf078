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
from ironloom.weights.names import raw_name
from ironloom.weights.peers import ALONE, Peers
from ironloom.weights.stored import resolve


def by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state with parameters called by their names in the model instead of by number."""
    names = _names(optimizer, model)
    raw = optimizer.state_dict()
    return {
        **raw,
        "optimizer": type(optimizer).__name__,
        "state": {names[index]: value for index, value in raw["state"].items()},
        "param_groups": [{**_without_names(group), "params": [names[index] for index in group["params"]]} for group in raw["param_groups"]],
    }


def merged_groups(tree: dict[str, Any], peers: Peers) -> dict[str, Any]:
    """The tree with the parameter groups of all processes: those that are alike are one, whatever parameters each has.

    Args:
        tree: What :func:`by_name` made, and under ``configured`` what the configuration said of each group.
        peers: Processes whose parameters make up the model.
    """
    own = list(zip(tree["param_groups"], tree["configured"], strict=True))
    merged: dict[tuple[str, int], tuple[dict[str, Any], Any]] = {}
    for _, pairs in peers.distinct(own, repr(own)):
        seen: dict[str, int] = {}
        for group, configured in pairs:
            kind = _kind(group)
            seen[kind] = seen.get(kind, 0) + 1
            known = merged.setdefault((kind, seen[kind]), ({**group, "params": []}, configured))[0]["params"]
            known += [name for name in group["params"] if name not in known]
    return {**tree, "param_groups": [group for group, _ in merged.values()], "configured": [said for _, said in merged.values()]}


def _kind(group: dict[str, Any]) -> str:
    """What makes two groups alike: everything but their parameters."""
    return repr(sorted((key, list(value) if isinstance(value, tuple) else value) for key, value in group.items() if key != "params"))


def load_by_name(optimizer: Optimizer, model: nn.Module, saved: dict[str, Any], peers: Peers = ALONE) -> list[int]:
    """Load what :func:`by_name` made, as far as this process has the parameters.

    Args:
        optimizer: Of the parameters that this process has.
        model: With their names.
        saved: The tree; its tensors may still be on the disk.
        peers: Processes whose parameters make up the model.

    Returns:
        For each group of the optimizer the number of the one that was saved.

    Raises:
        CheckpointError: If the optimizer's kind, parameters or groups are not those that were saved.
    """
    names = _names(optimizer, model)
    everybody = {name for _, some in peers.distinct(names, repr(names)) for name in some}
    return peers.together(lambda: _load(optimizer, names, everybody, saved))


def _load(optimizer: Optimizer, names: list[str], everybody: set[str], saved: dict[str, Any]) -> list[int]:
    kind = saved.get("optimizer", type(optimizer).__name__)
    if kind != type(optimizer).__name__:
        raise CheckpointError(
            f"the optimizer state is that of {kind}, but this run has {type(optimizer).__name__}; "
            "set restore_optimizer_state=False to start the optimizer anew"
        )
    numbers = {name: index for index, name in enumerate(names)}
    parameters = dict(zip(names, (parameter for group in optimizer.param_groups for parameter in group["params"]), strict=True))
    there = resolve(saved["param_groups"])
    chosen = _matching(optimizer, names, everybody, there)
    here = optimizer.state_dict()["param_groups"]
    state = {name: resolve(saved["state"][name], parameters[name]) for name in names if name in saved["state"]}
    optimizer.load_state_dict(
        {
            "state": {numbers[name]: value for name, value in state.items()},
            "param_groups": [
                {**_without_names(there[index]), "params": group["params"]} for index, group in zip(chosen, here, strict=True)
            ],
        }
    )
    _keep_precision(optimizer, names, state)
    return chosen


def _matching(optimizer: Optimizer, names: list[str], everybody: set[str], there: list[dict[str, Any]]) -> list[int]:
    """For each group of the optimizer the number of the saved one that holds its parameters."""
    odd = sorted(everybody ^ {name for group in there for name in group["params"]})
    what = f"it differs in {', '.join(odd[:5])}" if odd else ""
    group_of = {name: index for index, group in enumerate(there) for name in group["params"]}
    chosen: list[int] = []
    taken: set[int] = set()
    for group in optimizer.state_dict()["param_groups"] if not what else []:
        found = sorted({group_of[names[index]] for index in group["params"]} or {len(chosen)})
        if len({_kind(there[index]) for index in found if index < len(there)}) != 1 or taken & set(found):
            what = "they are grouped in another way"
            break
        taken |= set(found)
        chosen.append(found[0])
    if what:
        raise CheckpointError(
            f"the optimizer state is of other parameters: {what}; set restore_optimizer_state=False to start the optimizer anew"
        )
    return chosen


def _without_names(group: dict[str, Any]) -> dict[str, Any]:
    """A group without the names that PyTorch keeps beside the parameters; each process has its own."""
    return {key: value for key, value in group.items() if key != "param_names"}


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
    known = {id(parameter): raw_name(name) for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [known.get(id(parameter), f"parameter {index}") for index, parameter in enumerate(parameters)]


def fits(scheduler: Any, saved: dict[str, Any]) -> bool:
    """Whether a schedule's state is one of as many parameter groups; a stage of a pipeline may have fewer than another."""
    if not isinstance(scheduler, LRScheduler) or "base_lrs" not in saved:
        return True
    return len(saved["base_lrs"]) == len(scheduler.optimizer.param_groups)


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
            **{key: value for key, value in group.items() if key not in ("params", "param_names", "initial_lr") and _is_plain(value)},
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
