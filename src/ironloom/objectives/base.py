"""What an objective is: a loss as a sum and the weight that the sum is divided by.

Whoever trains or evaluates adds up sums and weights over everything that belongs together (the
micro-batches of an optimizer step, all batches of an evaluation, all ranks) and divides once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from ironloom.errors import ConfigError

IGNORE_INDEX = -100
Batch = Mapping[str, Any]
Model = Callable[..., Any]


class Objective(Protocol):
    """A loss over batches, which are mappings of names to tensors (batch dimension first)."""

    def weight(self, batch: Batch) -> int:
        """What the batch counts: target tokens, or samples. Known before the forward pass."""
        ...

    def __call__(self, model: Model, batch: Batch, total: int) -> tuple[torch.Tensor, Any]:
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
    def weight(self, batch: Batch) -> int:
        """As in :class:`Objective`."""

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The keyword arguments of the model's forward."""

    @abstractmethod
    def loss_sum(self, outputs: Any, batch: Batch, total: int) -> torch.Tensor:
        """The loss summed over the batch, from the model's outputs."""

    def __call__(self, model: Model, batch: Batch, total: int) -> tuple[torch.Tensor, Any]:
        """As in :class:`Objective`."""
        outputs = model(**self.inputs(batch))
        return self.loss_sum(outputs, batch, total), outputs


def logits_of(outputs: Any) -> torch.Tensor | None:
    """The logits in a model's outputs: a tensor, a mapping, an object or a ``(loss, logits)`` tuple."""
    if isinstance(outputs, torch.Tensor):
        return outputs if outputs.ndim else None
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    if isinstance(outputs, tuple):
        return next((item for item in outputs[:2] if isinstance(item, torch.Tensor) and item.ndim > 1), None)
    return getattr(outputs, "logits", None)


def loss_of(outputs: Any) -> torch.Tensor:
    """The loss that a model computed itself.

    Raises:
        ConfigError: If there is neither a loss nor logits in the outputs.
    """
    loss: torch.Tensor | None
    if isinstance(outputs, torch.Tensor):
        loss = outputs
    elif isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    elif isinstance(outputs, tuple):
        loss = outputs[0]
    else:
        loss = getattr(outputs, "loss", None)
    if loss is None or loss.ndim:
        raise ConfigError(
            "the model returned neither logits nor a loss: give compute_loss_func, or return an object with 'logits' or 'loss'"
        )
    return loss


def count_targets(targets: torch.Tensor) -> int:
    """Elements that are not masked. On the CPU NumPy counts several times faster for small batches."""
    if targets.device.type == "cpu":
        array = targets.numpy()
        return int(array.size - (array == IGNORE_INDEX).sum())
    return int((targets != IGNORE_INDEX).sum())


def batch_size(batch: Batch) -> int:
    """Samples in a batch: the first dimension of its first tensor."""
    return next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))
