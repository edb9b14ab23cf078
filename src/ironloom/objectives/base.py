"""What an objective is: a loss as a sum and the weight that the sum is divided by.

Whoever trains or evaluates adds up sums and weights over everything that belongs together (the
micro-batches of an optimizer step, all batches of an evaluation, all ranks) and divides once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from ironloom.errors import ConfigError, DataError

IGNORE_INDEX = -100
Batch = Mapping[str, Any]
Model = Callable[..., Any]


class Objective(Protocol):
    """A loss over batches, which are mappings of names to tensors (batch dimension first)."""

    def weight(self, batch: Batch) -> float:
        """What the batch counts: target tokens, or samples. Known before the forward pass."""
        ...

    def __call__(self, model: Model, batch: Batch, total: float) -> tuple[torch.Tensor, Any]:
        """Run the model on a batch.

        Args:
            model: Called with keyword arguments.
            batch: The batch, on the model's device.
            total: Weight of everything that the sum will be divided by.

        Returns:
            The loss summed over the batch, a float32 scalar, and the model's outputs.
        """
        ...


class OutputObjective(ABC):
    """An objective whose loss is computed from what the forward pass returned."""

    @abstractmethod
    def weight(self, batch: Batch) -> float:
        """As in :class:`Objective`."""

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The keyword arguments of the model's forward."""

    @abstractmethod
    def loss_sum(self, outputs: Any, batch: Batch, total: float) -> torch.Tensor:
        """The loss summed over the batch, from the model's outputs."""

    def __call__(self, model: Model, batch: Batch, total: float) -> tuple[torch.Tensor, Any]:
        """As in :class:`Objective`."""
        outputs = model(**self.inputs(batch))
        return self.loss_sum(outputs, batch, total), outputs


@dataclass(frozen=True)
class Reported:
    """What the forward pass returned, with what is to be shown beside the loss.

    Attributes:
        outputs: The model's outputs.
        sums: Float32 of shape (names,), without gradient: sums over the batch, which are divided by the weight as the loss is.
    """

    outputs: Any
    sums: torch.Tensor


class ReportingObjective(OutputObjective):
    """An objective that has more to show than its loss.

    Its sums are added up over everything that a loss is added up over, so that they are exact whatever the batches are.

    Attributes:
        reports: Names of the sums.
    """

    reports: ClassVar[tuple[str, ...]]

    @abstractmethod
    def loss_and_sums(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over the batch, and the sums that are reported, see :class:`Reported`."""

    def loss_sum(self, outputs: Any, batch: Batch, total: float) -> torch.Tensor:
        """As in :class:`OutputObjective`."""
        return self.loss_and_sums(outputs, batch)[0]

    def __call__(self, model: Model, batch: Batch, total: float) -> tuple[torch.Tensor, Reported]:
        """As in :class:`Objective`."""
        outputs = model(**self.inputs(batch))
        loss, sums = self.loss_and_sums(outputs, batch)
        return loss, Reported(outputs, sums)


def logits_of(outputs: Any) -> torch.Tensor | None:
    """The logits in a model's outputs: a tensor, a mapping, an object or a ``(loss, logits)`` tuple."""
    if isinstance(outputs, Reported):
        outputs = outputs.outputs
    if isinstance(outputs, torch.Tensor):
        return outputs if outputs.ndim else None
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    if isinstance(outputs, tuple):
        return next((item for item in outputs[:2] if isinstance(item, torch.Tensor) and item.ndim > 1), None)
    return getattr(outputs, "logits", None)


def loss_of(outputs: Any) -> torch.Tensor:
    """The loss that a model computed itself; in a tuple it comes first or, as in nanoGPT, second.

    Raises:
        ConfigError: If there is neither a loss nor logits in the outputs.
    """
    loss: torch.Tensor | None
    if isinstance(outputs, torch.Tensor):
        loss = None if outputs.ndim else outputs
    elif isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    elif isinstance(outputs, tuple):
        loss = next((item for item in outputs[:2] if isinstance(item, torch.Tensor) and item.ndim == 0), None)
    else:
        loss = getattr(outputs, "loss", None)
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        raise no_loss(outputs)
    return loss


def no_loss(outputs: Any) -> ConfigError:
    """The error of outputs in which there is neither a loss (a tensor of no dimension) nor logits."""
    found = f" with {', '.join(map(repr, outputs))}" if isinstance(outputs, Mapping) else ""
    return ConfigError(
        f"the model returned neither logits nor a loss, but a {type(outputs).__name__}{found}: give compute_loss_func, "
        "or return an object with 'logits' or 'loss'"
    )


def count_targets(targets: torch.Tensor) -> int:
    """Elements that are not masked. On the CPU NumPy counts several times faster for small batches."""
    if targets.device.type == "cpu":
        array = targets.numpy()
        return array.size - int(np.count_nonzero(array == IGNORE_INDEX))
    return int((targets != IGNORE_INDEX).sum())


def batch_size(batch: Batch) -> int:
    """Samples in a batch: the first dimension of its first tensor that has one.

    Raises:
        DataError: If there is no such tensor.
    """
    for value in batch.values():
        if isinstance(value, torch.Tensor) and value.ndim:
            return len(value)
    raise DataError(f"a batch has no tensor with a batch dimension, only {', '.join(map(repr, batch)) or 'nothing'}")
