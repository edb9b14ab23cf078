"""Tensor parallelism: the heads and hidden units of every block divided among processes (Shoeybi et al. 2019, arXiv:1909.08053).

Embeddings, norms and the output layer are whole in every process. Between the split layers activations are plain tensors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from ironloom.models.plan import SplitPlan, blocks_of, check_split


def split_layers(model: nn.Module, plan: SplitPlan, mesh: DeviceMesh) -> None:
    """Split the blocks of a model, in place.

    Raises:
        ConfigError: If the model's heads or hidden units cannot be divided so.
    """
    check_split(plan, mesh.size())
    for block in blocks_of(model).values():
        styles: dict[str, ParallelStyle] = {}
        for path in plan.columns:
            styles[path] = _ColumnsOfConv() if _is_conv(block.get_submodule(path)) else ColwiseParallel()
        for path in plan.rows:
            styles[path] = _RowsOfConv() if _is_conv(block.get_submodule(path)) else RowwiseParallel()
        for path, parts in plan.packed.items():
            styles[path] = _ColumnsOfConv(parts)
        parallelize_module(block, mesh, styles)
        for path, name in plan.divided:
            module = block.get_submodule(path)
            setattr(module, name, getattr(module, name) // mesh.size())


def _is_conv(module: nn.Module) -> bool:
    """Whether this is transformers' ``Conv1D``: a linear layer whose weight is ``[in, out]``."""
    return not isinstance(module, nn.Linear)


class _ColumnsOfConv(ParallelStyle):
    """``Conv1D`` whose outputs are divided; with ``parts`` > 1 each of that many matrices side by side is."""

    def __init__(self, parts: int = 1):
        super().__init__()
        self.parts = parts

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        weight: Any = module.weight
        placement = Shard(1) if self.parts == 1 else _StridedShard(1, split_factor=self.parts)
        mine = _my_columns(weight.detach(), device_mesh, self.parts).contiguous()
        spread = DTensor.from_local(mine, device_mesh, [placement], run_check=False, shape=weight.shape, stride=weight.stride())
        module.weight = nn.Parameter(spread, requires_grad=weight.requires_grad)
        # Whole in every process: a packed vector that is sharded once more cannot be put together again.
        _replicate(module, "bias", device_mesh)
        module.forward = partial(_column_forward, module, device_mesh, self.parts)
        return module


class _RowsOfConv(ParallelStyle):
    """``Conv1D`` whose inputs are divided; the outputs are summed, and the bias is added once."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        weight: Any = module.weight
        module.weight = nn.Parameter(distribute_tensor(weight.detach(), device_mesh, [Shard(0)]), requires_grad=weight.requires_grad)
        _replicate(module, "bias", device_mesh)
        module.forward = partial(_row_forward, module, device_mesh)
        return module


def _replicate(module: Any, name: str, mesh: DeviceMesh) -> None:
    whole = getattr(module, name)
    setattr(module, name, nn.Parameter(distribute_tensor(whole.detach(), mesh, [Replicate()]), requires_grad=whole.requires_grad))


def _my_columns(whole: Tensor, mesh: DeviceMesh, parts: int) -> Tensor:
    """Of each of the matrices side by side in the last dimension, this process's piece."""
    return torch.cat([part.chunk(mesh.size(), -1)[mesh.get_local_rank()] for part in whole.chunk(parts, -1)], -1)


def _column_forward(module: Any, mesh: DeviceMesh, parts: int, x: Tensor) -> Tensor:
    # In the backward pass each process has a term of the sums that are the gradients of input and bias.
    mine = DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])
    bias = module.bias.to_local(grad_placements=[Partial()])
    mixed: Tensor = torch.matmul(mine, module.weight.to_local()) + _my_columns(bias, mesh, parts)
    return mixed


def _row_forward(module: Any, mesh: DeviceMesh, x: Tensor) -> Tensor:
    term = torch.matmul(x, module.weight.to_local())
    summed = DTensor.from_local(term, mesh, [Partial()], run_check=False).redistribute(placements=[Replicate()])
    mixed: Tensor = summed.to_local() + module.bias.to_local()
    return mixed
