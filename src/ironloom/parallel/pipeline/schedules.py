"""Which schedule of ``torch.distributed.pipelining`` runs, by name or by a factory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ironloom.errors import ConfigError
from ironloom.settings.pipeline import SCHEDULES, schedule_name


@dataclass(frozen=True)
class ScheduleChoice:
    """A schedule to be made.

    Attributes:
        make: Makes it.
        is_multistage: Whether it is made of a list of stages.
        name: Name of the class; None for one that is not PyTorch's.
        is_v: As in :class:`~ironloom.settings.pipeline.ScheduleRule`.
    """

    make: Callable[..., Any]
    is_multistage: bool
    name: str | None
    is_v: bool = False


def schedule_choice(name: str, factory: Callable[..., Any] | None, stages_per_rank: int) -> ScheduleChoice:
    """The schedule that is meant.

    Args:
        name: Name of a class, used where there is no factory.
        factory: A class or anything else that is called as one.
        stages_per_rank: Tells of an unknown factory what it takes.

    Raises:
        ConfigError: If there is no schedule of that name.
    """
    from torch.distributed import pipelining
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

    known = schedule_name(name)
    if factory is None and known is None:
        raise ConfigError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}")
    make = getattr(pipelining, known or "") if factory is None else factory
    cls = make
    while isinstance(cls, functools.partial):
        cls = cls.func
    if isinstance(cls, type) and issubclass(cls, (PipelineScheduleMulti, PipelineScheduleSingle)):
        rule = SCHEDULES.get(cls.__name__)
        is_multistage = issubclass(cls, PipelineScheduleMulti)
        if not is_multistage and stages_per_rank > 1:
            raise ConfigError(f"{cls.__name__} has one stage on each rank: set stages_per_rank to 1")
        return ScheduleChoice(make, is_multistage, cls.__name__ if rule else None, rule is not None and rule.is_v)
    return ScheduleChoice(make, stages_per_rank > 1, None)
