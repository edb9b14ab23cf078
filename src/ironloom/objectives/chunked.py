"""Cross entropy that never holds the logits in float32 as a whole.

``F.cross_entropy(logits.float(), ...)`` writes and reads several float32 copies of the logits, which are
the largest tensors of a small language model. Here a few rows at a time are turned to float32, used and
dropped, forward and backward, so that the copies stay in the processor's cache. The arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

#: Elements of logits that are held in float32 at a time: what fits a core's cache; elsewhere, few kernel launches.
CPU_CHUNK, DEVICE_CHUNK = 2**18, 2**26


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the targets that are not ignored.

    Args:
        logits: ``[N, C]`` in any floating-point dtype.
        targets: ``[N]`` class indices.
        ignore_index: Marks targets that do not count.
        weights: ``[N]``, float32: what each of them is multiplied by; None: nothing.

    Returns:
        A float32 scalar.

    Raises:
        IndexError: On the CPU, for a target that is neither a class nor ignored.
    """
    is_small = logits.numel() <= _chunk_elements(logits)
    if weights is not None:
        each = _at_once if is_small else cross_entropy_each
        return (each(logits, targets, ignore_index) * weights).sum()
    if is_small:
        return F.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="sum")
    return cross_entropy_each(logits, targets, ignore_index).sum()


def cross_entropy_each(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The negative log-likelihood of each target, 0 for those that are ignored.

    Args:
        logits: ``[N, C]`` in any floating-point dtype.
        targets: ``[N]`` class indices.
        ignore_index: Marks targets that do not count.

    Returns:
        ``[N]``, float32.

    Raises:
        IndexError: On the CPU, for a target that is neither a class nor ignored.
    """
    losses: torch.Tensor = _ChunkedCrossEntropy.apply(logits, targets, ignore_index)  # type: ignore[no-untyped-call]
    return losses


def _at_once(logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="none")


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Keeps the logits as they are; the softmax is computed anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, ignore_index: int) -> torch.Tensor:
        counted = targets != ignore_index
        safe = targets.where(counted, 0)
        if logits.device.type == "cpu" and ((safe < 0) | (safe >= logits.shape[1])).any():
            raise IndexError(f"a target is outside the {logits.shape[1]} classes")
        losses = torch.empty(len(logits), device=logits.device)
        for rows in chunks(logits):
            losses[rows] = F.cross_entropy(logits[rows].float(), safe[rows], reduction="none")
        ctx.save_for_backward(logits, safe, counted)
        return losses.where(counted, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, safe, counted = ctx.saved_tensors
        result = torch.empty_like(logits)
        scale = (counted * gradients[0])[:, None]
        for rows in chunks(logits):
            part = logits[rows].float().softmax(dim=1)
            part.scatter_add_(1, safe[rows, None], part.new_full((len(part), 1), -1.0))
            torch.mul(part, scale[rows], out=part)
            result[rows] = part
        return result, None, None


def _chunk_elements(logits: torch.Tensor) -> int:
    return CPU_CHUNK if logits.device.type == "cpu" else DEVICE_CHUNK


def chunks(logits: torch.Tensor) -> list[slice]:
    """The rows of ``[N, C]`` in runs that are small enough to be held in float32."""
    rows = max(1, _chunk_elements(logits) // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
