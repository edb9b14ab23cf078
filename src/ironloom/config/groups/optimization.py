"""The optimizer and the schedule of a run, from the keys of the group optim."""

from __future__ import annotations

from typing import Any

from ironloom.config.graph import Node
from ironloom.config.groups.keys import Keys
from ironloom.config.groups.rules import Groups
from ironloom.settings.optim import MOMENTUM, OPTIMIZERS_WITH

FUNCTIONS = {"adam": "adamw", "adam_l2": "adam"}


def optimizer_of(groups: Groups, key: Keys) -> Node:
    """The factory of the optimizer, with those arguments that it has."""
    name = groups.optim.optimizer
    arguments: dict[str, Any] = {"lr": key("optim.max_lr")}
    if name in MOMENTUM:
        said = groups.optim.momentum
        arguments["momentum"] = key.settled(MOMENTUM[name] if said is None else said, "optim.momentum", "optim.optimizer")
    if name in OPTIMIZERS_WITH["adam_beta1"]:
        arguments["betas"] = [key("optim.adam_beta1"), key("optim.adam_beta2")]
    if name in OPTIMIZERS_WITH["adam_eps"]:
        arguments["eps"] = key("optim.adam_eps")
    arguments["weight_decay"] = key("optim.weight_decay")
    arguments["no_decay_on_embedding"] = key("optim.no_decay_on_embedding")
    return Node(f"ironloom.optim:{FUNCTIONS.get(name, name)}", "partial", (), arguments)


def schedule_of(groups: Groups, key: Keys) -> Node:
    """The factory of the schedule, with those arguments that it has."""
    kind = groups.optim.lr_scheduler
    if kind == "infinite":
        names = ("warmup_steps", "cooldown_steps", "constant_lr", "min_lr", "tau", "checkpoint_step")
        return Node("ironloom.optim:InfiniteLRScheduler", "partial", (), {name: key(f"optim.{name}") for name in names})
    arguments: dict[str, Any] = {"kind": key("optim.lr_scheduler")}
    arguments |= {name: key(f"optim.{name}") for name in ("warmup_steps", "annealing_steps", "min_lr")}
    arguments["total_steps"] = key("operation.train_steps")
    if kind == "polynomial":
        arguments["power"] = key("optim.lr_power")
    if kind == "warmup_stable_decay":
        arguments["decay_type"] = key("optim.decay_type")
    return Node("ironloom.optim:warmup_anneal", "partial", (), arguments)
