"""The optimizer and the schedule of a run: which they are, and whether they can do what a run needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ironloom.errors import ConfigError
from ironloom.optim import AdamW, NamedParameters, schedule_by_name
from ironloom.optim.parameters import decay_groups, is_norm_or_bias
from ironloom.settings.training import TrainingArguments


@runtime_checkable
class Scheduler(Protocol):
    """The least that a learning-rate schedule can do."""

    def step(self) -> None:
        """Advance by one optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""


def new_optimizer(
    model: nn.Module,
    args: TrainingArguments,
    factory: Callable[..., Optimizer] | None,
    cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None,
) -> Optimizer:
    """The optimizer of ``factory``, or of a class and its arguments, or else AdamW as ``args`` says.

    Raises:
        ConfigError: If the model has nothing to train.
    """
    named_parameters = NamedParameters(model)
    if not len(named_parameters):
        raise ConfigError("the model has no trainable parameter")
    if factory is not None:
        return factory(named_parameters)
    groups = decay_groups(named_parameters, args.weight_decay, is_norm_or_bias)
    if cls_and_kwargs is not None:
        optimizer_cls, kwargs = cls_and_kwargs
        return optimizer_cls(groups, **kwargs)
    return AdamW(groups, lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)


def new_scheduler(optimizer: Optimizer, args: TrainingArguments, factory: Callable[..., Any] | None, max_steps: int) -> Any:
    """The schedule of ``factory``, or else the one that ``args`` names."""
    if factory is not None:
        return factory(optimizer)
    return schedule_by_name(args.lr_scheduler_type, optimizer, args.get_warmup_steps(max_steps), max_steps, args.lr_scheduler_kwargs or {})


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Refuse what is no optimizer, or one that would train nothing of the model.

    Raises:
        ConfigError: Saying what was found.
    """
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"an optimizer must be a torch.optim.Optimizer, found {type(optimizer).__name__}")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise ConfigError(
            "the optimizer holds none of the model's parameters: nothing would be trained; "
            "make it of model.parameters(), or give optimizer_factory"
        )


def check_scheduler(scheduler: Any, args: TrainingArguments) -> None:
    """Refuse what cannot be stepped and saved, and a schedule that waits for evaluations where there are none.

    Raises:
        ConfigError: Saying what was found.
    """
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise ConfigError(
            f"a scheduler must have step(), state_dict() and load_state_dict(), lr_scheduler_factory returned {type(scheduler).__name__}"
        )
    if isinstance(scheduler, ReduceLROnPlateau) and args.eval_strategy == "no":
        raise ConfigError("the schedule reduce_lr_on_plateau follows evaluations: set eval_strategy")
