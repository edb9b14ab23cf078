"""Numbers that steps report: means over samples, and objects with ``update``, ``compute`` and ``reset``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from ironloom.callbacks.base import TrainerCallback
from ironloom.errors import ConfigError
from ironloom.objectives.weighted import plain
from ironloom.parallel.team import Team


@runtime_checkable
class Metric(Protocol):
    """What gathers a number over many batches, as those of torchmetrics and torcheval do."""

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Take a batch in."""

    def compute(self) -> Any:
        """The number, or several by name."""

    def reset(self) -> Any:
        """Forget all batches."""


@dataclass(frozen=True)
class StepResult:
    """What a step returned: its loss as a sum (None if it gave none), the weight of that, and further numbers."""

    loss_sum: torch.Tensor | None
    weight: float
    numbers: Mapping[str, float] = field(default_factory=dict)


def read_result(result: Any, samples: int, hook: str) -> StepResult:
    """Understand what a hook returned.

    Args:
        result: A mean over the batch, a pair of sum and weight, a dict with such a ``loss`` and further numbers, or None.
        samples: The weight of a mean.
        hook: Who returned it.

    Raises:
        ConfigError: If it is nothing of that.
    """
    numbers: dict[str, float] = {}
    if isinstance(result, Mapping):
        numbers = {name: _number(name, value, hook) for name, value in result.items() if name != "loss"}
        result = result.get("loss")
    if result is None:
        return StepResult(None, samples, numbers)
    if isinstance(result, tuple) and len(result) == 2:
        total, weight = result
        weight = weight.item() if isinstance(weight, torch.Tensor) and weight.numel() == 1 else weight
        is_weight = isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0
        if not isinstance(total, torch.Tensor) or total.numel() != 1 or not is_weight:
            raise ConfigError(f"{hook} returned a pair that is no loss sum (a tensor of one number) and weight (a number, 0 or more)")
        return StepResult(total.float().reshape(()), plain(weight), numbers)
    if not isinstance(result, torch.Tensor) or result.numel() != 1:
        found = f"a tensor of {tuple(result.shape)}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
        raise ConfigError(
            f"{hook} returned {found}: return the mean loss of the batch, (loss sum, weight), or a dict with 'loss' and further numbers"
        )
    return StepResult(result.float().reshape(()) * samples, samples, numbers)


def _number(name: str, value: Any, hook: str) -> float:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, int | float):
        return float(value)
    raise ConfigError(f"{hook} returned {name!r}, a {type(value).__name__}: only numbers are recorded, give anything else to a callback")


class Means:
    """Weighted means by name, of sums that may be added up over processes."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, numbers: Mapping[str, float], weight: float) -> None:
        """Count one batch."""
        for name, value in numbers.items():
            sums = self.sums.setdefault(name, [0.0, 0.0])
            sums[0] += value * weight
            sums[1] += weight

    def take(self, team: Team) -> dict[str, float]:
        """The means over all processes since the last call; every process calls this."""
        mine, self.sums = self.sums, {}
        united: dict[str, list[float]] = {}
        for sums in [mine] if team.is_alone else team.gather(mine):
            for name, (total, weight) in sums.items():
                known = united.setdefault(name, [0.0, 0.0])
                known[0] += total
                known[1] += weight
        return {name: total / weight for name, (total, weight) in united.items() if weight}


class StepRecords(TrainerCallback):
    """Keeps what training steps have reported since the last log record, in checkpoints too."""

    def __init__(self) -> None:
        self.means = Means()

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": {name: list(sums) for name, sums in self.means.sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.means.sums = {name: list(sums) for name, sums in state["sums"].items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run that starts anew has reported nothing."""
        if state.global_step == 0:
            self.means.sums = {}


@contextlib.contextmanager
def muted(metrics: Iterable[Metric]) -> Iterator[None]:
    """Within the block metrics take nothing in: a process computes along with others, on samples that were counted already."""
    before = [(metric, vars(metric).get("update")) for metric in metrics]
    for metric, _ in before:
        vars(metric)["update"] = _take_nothing
    try:
        yield
    finally:
        for metric, own in before:
            del vars(metric)["update"]
            if own is not None:
                vars(metric)["update"] = own


def _take_nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of a metric's ``update``."""


def computed(metrics: Mapping[str, Metric], team: Team) -> dict[str, float]:
    """The numbers of metric objects over all processes, as ``name``, or ``name/part`` where one computes several.

    Raises:
        ConfigError: If one of them cannot be united with those of other processes.
    """
    numbers: dict[str, float] = {}
    for name, metric in metrics.items():
        value = _united(name, metric, team).compute()
        parts = {f"{name}/{part}": each for part, each in value.items()} if isinstance(value, Mapping) else {name: value}
        numbers |= {each: _number(each, part, "compute") for each, part in parts.items()}
    return numbers


def _united(name: str, metric: Any, team: Team) -> Any:
    if team.is_alone or hasattr(metric, "dist_sync_fn"):  # torchmetrics' own compute unites the processes
        return metric
    others = [other for rank, other in enumerate(team.gather(metric)) if rank != team.place.data_rank]
    if not callable(getattr(metric, "merge_state", None)):
        raise ConfigError(
            f"the metric {name} ({type(metric).__name__}) has seen a part of the data in each process and cannot be united: "
            "give it a method merge_state(others), or use one of torchmetrics"
        )
    metric.merge_state(others)
    return metric
