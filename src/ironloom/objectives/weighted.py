"""Targets that do not all count alike: the key ``loss_weights`` of a batch. Owns what it means and what is wrong with it.

The loss is the sum of weight times loss of each target, divided by the sum of the weights. A target that weighs 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ironloom.errors import ConfigError, DataError

LOSS_WEIGHTS = "loss_weights"
"""How much each label counts: of the shape of the labels that are in the batch, finite, 0 or more."""


def sum_weights(targets: torch.Tensor, weights: torch.Tensor, ignore_index: int) -> float:
    """What targets weigh together, summed in float64.

    Raises:
        DataError: If there is not one weight for each target, or one is negative or not finite.
    """
    check_shape(targets, weights)
    values, counted = weights.detach().float().cpu().numpy(), (targets != ignore_index).cpu().numpy()
    is_wrong = ~(np.isfinite(values) & (values >= 0))
    if is_wrong.any():
        place = tuple(int(index[0]) for index in np.nonzero(is_wrong))
        raise DataError(
            f"{LOSS_WEIGHTS} are finite numbers, 0 or more; that of label {place} is {values[place]} "
            f"({int(is_wrong.sum())} such weights in this batch)"
        )
    return plain(float(values[counted].sum(dtype=np.float64)))


def check_shape(targets: torch.Tensor, weights: Any) -> None:
    """Refuse weights that are not one for each target.

    Raises:
        DataError: Naming both shapes.
    """
    if not isinstance(weights, torch.Tensor) or weights.shape != targets.shape:
        found = f"of shape {tuple(weights.shape)}" if isinstance(weights, torch.Tensor) else f"a {type(weights).__name__}"
        raise DataError(f"{LOSS_WEIGHTS} are {found}, labels of shape {tuple(targets.shape)}: each label has one weight")


def plain(weight: float) -> float:
    """A weight; a whole number as an ``int``, as targets without weights are counted."""
    return int(weight) if float(weight).is_integer() else weight


def counting_targets(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with weights that are 1 where they are above 0, so that an objective counts its targets."""
    return {**batch, LOSS_WEIGHTS: (batch[LOSS_WEIGHTS] > 0).float()}


def refuse_weights(batch: Mapping[str, Any], whose: str) -> None:
    """Refuse weights that a loss would not heed.

    Raises:
        ConfigError: If the batch has any.
    """
    if LOSS_WEIGHTS in batch:
        raise ConfigError(
            f"the batches have {LOSS_WEIGHTS!r}, which {whose} does not heed: use the built-in cross entropy (no compute_loss_func, no "
            "labels for the model's own loss), or leave the weights out of the data"
        )
