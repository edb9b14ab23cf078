"""The loss on logits of which each process has some columns, so that none holds those of the whole vocabulary.

Each process that shares the layers scores some of the tokens. The largest logit, the sum of exponentials and the
target's logit are exchanged, three numbers per token (Shoeybi et al. 2019, arXiv:1909.08053, section 3). The output matrix stays
whole in every process: it may be tied to the embedding, and any vocabulary can be divided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.errors import ConfigError
from ironloom.models.decoder import Decoder
from ironloom.objectives import CrossEntropy, Objective
from ironloom.objectives.chunked import chunks, cross_entropy_sum


class SplitVocabulary:
    """The columns of the logits among the processes that share each layer.

    Args:
        group: These processes.
        classes: Number of logits in all.
        sums_later: Somebody else sums the gradients of the output matrix and of the hidden states over the group.
    """

    def __init__(self, group: dist.ProcessGroup, classes: int, sums_later: bool):
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        self.group, self.classes = group, classes
        self.bounds = [classes * index // size for index in range(size + 1)]
        self.first, self.end = self.bounds[rank], self.bounds[rank + 1]
        self._sums_later = sums_later
        self._is_running = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """In here the model gives this process's columns of the logits; outside of it, all of them."""
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    def objective(self, objective: Objective) -> CrossEntropy:
        """The same loss, from the columns of all processes.

        Raises:
            ConfigError: If it is another one than the built-in cross entropy.
        """
        if not isinstance(objective, CrossEntropy) or objective.keep_labels:
            kind = "the model's own" if isinstance(objective, CrossEntropy) else type(objective).__name__
            raise ConfigError(
                f"loss_parallel computes the built-in cross entropy from split logits, and this run's loss ({kind}) needs whole ones: "
                "leave compute_loss_func (or compute_loss) out, or leave loss_parallel out"
            )
        return dataclasses.replace(objective, nll_sum=self.nll_sum, classes=self.classes)

    def nll_sum(self, logits: Tensor, targets: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
        """As :func:`~ironloom.objectives.chunked.cross_entropy_sum`, of whatever columns the model gave."""
        if not self._is_running:
            return cross_entropy_sum(logits, targets, ignore_index, weights)
        loss: Tensor = _SplitCrossEntropy.apply(logits, targets, ignore_index, weights, self)  # type: ignore[no-untyped-call]
        return loss

    def score(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, or this process's columns of it."""
        if not self._is_running:
            return F.linear(x, weight, bias)
        if self._sums_later:
            return F.linear(x, weight[self.first : self.end], None if bias is None else bias[self.first : self.end])
        x = _SumGradient.apply(x, self.group)  # type: ignore[no-untyped-call]
        mine, own_bias = (None if whole is None else _Rows.apply(whole, self) for whole in (weight, bias))  # type: ignore[no-untyped-call]
        return F.linear(x, mine, own_bias)  # type: ignore[arg-type]


def split_vocabulary(model: nn.Module, group: dist.ProcessGroup, sums_later: bool) -> SplitVocabulary:
    """Let each process of a group score some of the tokens, in place; the weights are not touched.

    Args:
        model: The built-in decoder, or a model of ``transformers`` whose logits are those of its output layer.
        group: Processes with the same samples and the same hidden states.
        sums_later: As in :class:`SplitVocabulary`.

    Raises:
        ConfigError: If it is not known how the model makes its logits.
    """
    if isinstance(model, Decoder):
        vocabulary = SplitVocabulary(group, model.vocab_size, sums_later)
        model.score = vocabulary.score
        return vocabulary
    find: Any = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    config: Any = getattr(model, "config", None)
    if type(head) is not nn.Linear or getattr(config, "final_logit_softcapping", None) or not hasattr(config, "vocab_size"):
        raise ConfigError(
            f"loss_parallel does not know how {type(model).__name__} makes its logits: a linear output layer alone was expected; "
            "leave loss_parallel out"
        )
    vocabulary = SplitVocabulary(group, head.out_features, sums_later)
    head.forward = functools.partial(_scored, vocabulary, head)  # type: ignore[method-assign]
    return vocabulary


def _scored(vocabulary: SplitVocabulary, head: nn.Linear, x: Tensor) -> Tensor:
    return vocabulary.score(x, head.weight, head.bias)


class _SplitCrossEntropy(torch.autograd.Function):
    """Keeps the logits as they are. In the backward pass nothing is exchanged."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int, weights: Tensor | None, vocabulary: SplitVocabulary
    ) -> Tensor:
        counted = targets != ignore_index
        safe = targets.where(counted, 0)
        if logits.device.type == "cpu" and ((safe < 0) | (safe >= vocabulary.classes)).any():
            raise IndexError(f"a target is outside the {vocabulary.classes} classes")
        is_mine = (safe >= vocabulary.first) & (safe < vocabulary.end)
        column = (safe - vocabulary.first).where(is_mine, 0)
        largest = logits.detach().amax(dim=1).float()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=vocabulary.group)
        sums = torch.empty(2, len(logits), device=logits.device)
        for rows in chunks(logits):
            part = logits[rows].float()
            sums[1, rows] = part.gather(1, column[rows, None]).squeeze(1).where(is_mine[rows], 0.0)
            sums[0, rows] = (part - largest[rows, None]).exp_().sum(dim=1)
        dist.all_reduce(sums, group=vocabulary.group)
        normaliser = sums[0].log() + largest
        share = counted if weights is None else weights.where(counted, 0.0)  # how much of each loss is in the sum
        ctx.save_for_backward(logits, column, is_mine, share, normaliser)
        losses = (normaliser - sums[1]).where(counted, 0.0)
        return (losses if weights is None else losses * share).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, column, is_mine, share, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        scale = (share * gradients[0])[:, None]
        for rows in chunks(logits):
            part = (logits[rows].float() - normaliser[rows, None]).exp_()
            part.scatter_add_(1, column[rows, None], -is_mine[rows, None].float())
            result[rows] = part.mul_(scale[rows])
        return result, None, None, None, None


class _SumGradient(torch.autograd.Function):
    """The identity; what the processes give for its gradient is summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Rows(torch.autograd.Function):
    """This process's rows of a matrix that all have; in the backward pass each gives the gradient of its rows to all."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, vocabulary: SplitVocabulary) -> Tensor:
        ctx.vocabulary, ctx.shape = vocabulary, whole.shape
        return whole[vocabulary.first : vocabulary.end]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        bounds, gradient = ctx.vocabulary.bounds, gradients[0]
        sizes = [end - first for first, end in itertools.pairwise(bounds)]
        sent = gradient.new_zeros(max(sizes), *ctx.shape[1:])
        sent[: len(gradient)] = gradient
        parts = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(parts, sent, group=ctx.vocabulary.group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), None
