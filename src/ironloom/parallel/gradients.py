"""Gradients of whole parameters, summed over the processes that each have a copy of the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Bytes that are sent at once: enough that the start of a transfer is no matter, little enough that the next can be packed meanwhile.
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class _Sent:
    """A bucket on its way: copies of its gradients, and which state of these was copied."""

    bucket: list[nn.Parameter]
    flat: torch.Tensor
    work: Any
    copied: list[tuple[torch.Tensor | None, int]]

    def is_stale(self) -> bool:
        """Whether a gradient has changed since it was copied."""
        now = [_version(parameter) for parameter in self.bucket]
        return any(grad is not other or number != changed for (grad, number), (other, changed) in zip(self.copied, now, strict=True))


class GradientSums:
    """Sums gradients over a group, step for step.

    Which parameters have a gradient anywhere is agreed at the end of each step, and buckets follow from it. Within
    :meth:`armed` the buckets of the step before are sent as soon as their gradients are there, each after the one before it, so that
    the order is the same in all processes whatever each of them computes. Where it turns out that this step has gradients of
    other parameters, or that one changed after it was sent, the sums are made anew. So they never depend on what was sent early.

    Args:
        group: The processes; if :meth:`armed` is used, nothing else communicates in it.
        device: Where the group communicates.
        dtype: Type in which gradients are summed; None for their own.
    """

    def __init__(self, group: ProcessGroup, device: torch.device, dtype: torch.dtype | None = None):
        self.group, self.device, self.dtype = group, device, dtype
        #: Those with a gradient in the step before, among which parameters; None: nothing is sent early.
        self._plan: tuple[list[nn.Parameter], list[nn.Parameter]] | None = None
        self._keeps_plans = True
        self._buckets: list[list[nn.Parameter]] = []
        self._sent: list[_Sent] = []

    @contextlib.contextmanager
    def armed(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Around the last backward pass of a step: within it, sums begin.

        At its end every bucket is on its way, with an error too: other processes, which may not have met it, count on that.

        Args:
            parameters: As in :meth:`finish`.
        """
        self._sent, self._buckets = [], []
        if self._plan is not None and _same(self._plan[0], parameters):
            self._buckets = list(_buckets(reversed(self._plan[1])))
        try:
            with self._hooks():
                yield
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the first error is the one to tell
                self._send_rest()
            self._sent = []
            raise
        self._send_rest()

    def finish(self, parameters: Sequence[nn.Parameter], numbers: Sequence[float]) -> list[float]:
        """Sum every gradient over the group, in place; a process that has none adds nothing.

        A parameter that no process has a gradient of is left without one, as it would be with one process.

        Args:
            parameters: The trained ones, in the same order everywhere.
            numbers: Further numbers to be summed on the way.

        Returns:
            The sums of ``numbers``.
        """
        import torch.distributed as dist

        early, self._sent = self._sent, []
        stale = any(sent.is_stale() for sent in early)
        present = [parameter.grad is not None for parameter in parameters]
        sums = torch.tensor([*numbers, *present, stale], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums, group=self.group)
        *totals, late = sums.tolist()
        trained = [parameter for parameter, count in zip(parameters, totals[len(numbers) :], strict=True) if count]
        if not early or late or self._plan is None or not _same(self._plan[1], trained):
            for sent in early:
                sent.work.wait()
            early = [self._send(bucket) for bucket in _buckets(reversed(trained))]
        # What changes a gradient after its turn will do so again.
        self._keeps_plans &= not late
        self._plan = (list(parameters), trained) if self._keeps_plans else None
        for sent in early:
            sent.work.wait()
            for parameter, part in zip(sent.bucket, torch.split(sent.flat, [one.numel() for one in sent.bucket]), strict=True):
                _gradient(parameter).copy_(part.view_as(parameter))
        return totals[: len(numbers)]

    @contextlib.contextmanager
    def _hooks(self) -> Iterator[None]:
        """Within it, each bucket is sent when its last gradient arrives and those before it are on their way."""
        awaited = [{id(parameter) for parameter in bucket if parameter.requires_grad} for bucket in self._buckets]

        def arrived(missing: set[int], parameter: torch.Tensor) -> None:
            missing.discard(id(parameter))
            while len(self._sent) < len(awaited) and not awaited[len(self._sent)]:
                self._sent.append(self._send(self._buckets[len(self._sent)]))

        with contextlib.ExitStack() as stack:
            for missing, bucket in zip(awaited, self._buckets, strict=True):
                for parameter in bucket:
                    if parameter.requires_grad:
                        hook = parameter.register_post_accumulate_grad_hook(functools.partial(arrived, missing))  # type: ignore[no-untyped-call]
                        stack.callback(hook.remove)
            yield

    def _send_rest(self) -> None:
        self._sent += [self._send(bucket) for bucket in self._buckets[len(self._sent) :]]

    def _send(self, bucket: list[nn.Parameter]) -> _Sent:
        import torch.distributed as dist

        copied = [_version(parameter) for parameter in bucket]
        gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).to(self.dtype)
        return _Sent(bucket, flat, dist.all_reduce(flat, group=self.group, async_op=True), copied)


def sum_gradients(
    parameters: Sequence[nn.Parameter],
    group: ProcessGroup,
    numbers: Sequence[float],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[float]:
    """:meth:`GradientSums.finish` of a single step."""
    return GradientSums(group, device, dtype).finish(parameters, numbers)


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _version(parameter: nn.Parameter) -> tuple[torch.Tensor | None, int]:
    """A gradient, and a number that grows when it is changed in place."""
    return parameter.grad, -1 if parameter.grad is None else parameter.grad._version


def _same(some: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Runs of parameters of one dtype, each up to :data:`BUCKET_BYTES` or a single larger one."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        needed = parameter.numel() * parameter.element_size()
        if bucket and (size + needed > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += needed
    if bucket:
        yield bucket


@torch.no_grad()
def broadcast_weights(model: nn.Module, device: torch.device) -> None:
    """Give every process the weights and buffers of the first one, whatever each of them was initialised with."""
    import torch.distributed as dist

    for tensor in _distinct(model):
        there = tensor.detach().to(device).contiguous()
        dist.broadcast(there, src=0)
        if there.data_ptr() != tensor.data_ptr():
            tensor.copy_(there)


def _distinct(model: nn.Module) -> list[torch.Tensor]:
    """Each weight and buffer once, views of the same memory too."""
    return list({tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}.values())
