"""Sequence parallelism beside tensor parallelism: what lies between the split layers is done once, each process for some tokens
(Korthikanti et al. 2022, arXiv:2205.05198).

Norms, dropout and residual sums work on slices of the sequence. Split layers gather the slices of their inputs, and what each of
them has of the outputs' sums is summed and cut into slices in one go. A length that cannot be divided is padded inside.
Before the first block and after the last one every process has the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_single_autograd, reduce_scatter_single_autograd
from torch.distributed.tensor import DTensor

from ironloom.errors import ConfigError
from ironloom.models.plan import KNOWN, blocks_of, enters_by_split_layers
from ironloom.parallel.norms import local
from ironloom.parallel.tensor import change_input

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

#: Elements from which on a gradient is sent alone; smaller ones (norms, biases) are sent together.
_LARGE = 2**20


class SequenceSlices:
    """The slices of sequences among the processes that share each layer.

    The weights of norms and embeddings are whole in every process, and each has the gradient of its slice only: a term of a sum,
    which :meth:`sum_gradients` takes once per optimizer step.

    Args:
        mesh: The processes that share each layer.
    """

    def __init__(self, mesh: DeviceMesh):
        self.group = mesh.get_group()
        self.size, self.rank = mesh.size(), mesh.get_local_rank()
        self._length = 0

    def part(self, whole: Tensor) -> Tensor:
        """``[B, S, D]``, equal in all processes, to this one's slice ``[B, ceil(S / size), D]``."""
        self._length = whole.shape[1]
        padded = self._padded(whole)
        width = padded.shape[1] // self.size
        return padded.narrow(1, self.rank * width, width)

    def whole(self, part: Tensor) -> Tensor:
        """The slices of all processes, put together. What they give for a gradient is summed."""
        gathered: Tensor = all_gather_single_autograd(part.contiguous(), 1, self.group)
        return gathered.narrow(1, 0, self._length)

    def summed_part(self, term: Tensor) -> Tensor:
        """This process's slice of the sum of what all of them have."""
        part: Tensor = reduce_scatter_single_autograd(self._padded(term).contiguous(), "sum", 1, self.group)
        return part

    def agreed(self, x: Tensor) -> Tensor:
        """A number that all processes compute alike from whole sequences: each gives its share of the gradient."""
        same: Tensor = _ScaleGradient.apply(x, 1 / self.size)  # type: ignore[no-untyped-call]
        return same

    def _padded(self, x: Tensor) -> Tensor:
        missing = -x.shape[1] % self.size
        return F.pad(x, (0, 0, 0, missing)) if missing else x

    def sum_gradients(self, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        """Make the gradients of weights that are whole in every process those of all slices.

        Args:
            parameters: The trained ones.
            device: Where the processes communicate.
        """
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None and not _is_split(parameter)]
        for dtype in sorted({gradient.dtype for gradient in gradients}, key=str):
            small = [gradient for gradient in gradients if gradient.dtype == dtype and gradient.numel() < _LARGE]
            large = [gradient for gradient in gradients if gradient.dtype == dtype and gradient.numel() >= _LARGE]
            for bucket in ([small] if small else []) + [[gradient] for gradient in large]:
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket]).to(device)
                dist.all_reduce(flat, group=self.group)
                for gradient, part in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
                    gradient.copy_(part.view_as(gradient))


def slice_sequences(model: nn.Module, mesh: DeviceMesh) -> SequenceSlices:
    """Let what lies between the split layers of a model work on slices, in place.

    The layers are split afterwards, and gather the slices where these enter.

    Raises:
        ConfigError: If it is not known of the model that its blocks mix tokens in their split layers only.
    """
    if not enters_by_split_layers(model):
        raise ConfigError(
            f"sequence_parallel has not been compared with one process for {type(model).__name__}: use the built-in decoder or a "
            f"model of type {', '.join(KNOWN)}, or leave sequence_parallel out"
        )
    slices = SequenceSlices(mesh)
    blocks = list(blocks_of(model).values())
    change_input(blocks[0], slices.part)
    blocks[-1].register_forward_hook(lambda module, arguments, output: slices.whole(output))
    return slices


def _is_split(parameter: nn.Parameter) -> bool:
    """Whether the processes that share a layer share this weight, or the engine of DTensors sums its gradient."""
    return isinstance(parameter, DTensor) and "tp" in (parameter.device_mesh.mesh_dim_names or ())


class _ScaleGradient(torch.autograd.Function):
    """The identity; its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
