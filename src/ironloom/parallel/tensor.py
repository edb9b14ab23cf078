"""Tensor parallelism: the heads and hidden units of every block divided among processes (Shoeybi et al. 2019, arXiv:1909.08053).

Embeddings, norms and the output layer are whole in every process. Between the split layers activations are plain tensors, whole
in every process or, with :mod:`ironloom.parallel.sequence`, slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from ironloom.errors import ConfigError
from ironloom.models.plan import SplitPlan, blocks_of, check_split, enters_by_split_layers

if TYPE_CHECKING:
    from ironloom.parallel.sequence import SequenceSlices


def split_layers(model: nn.Module, plan: SplitPlan, mesh: DeviceMesh, slices: SequenceSlices | None = None) -> None:
    """Split the blocks of a model, in place.

    Args:
        model: Whole, on its device.
        plan: Which layers can be split.
        mesh: The processes that share each layer.
        slices: Of the sequences, if what lies between the layers is divided as well.

    Raises:
        ConfigError: If the model's heads or hidden units cannot be divided so.
    """
    check_split(plan, mesh.size())
    for path, module in _layers(model, plan):
        if type(module) is not nn.Linear and type(module).__name__ != "Conv1D":
            raise ConfigError(
                f"{path} is a {type(module).__name__}, and only plain linear layers can be split over processes: set tensor_parallel_size "
                "to 1 and share the weights with dp_shard instead"
            )
    enter = _entrance(model, mesh, slices)
    for block in blocks_of(model).values():
        styles: dict[str, ParallelStyle] = {}
        for path in plan.columns:
            styles[path] = _columns(block.get_submodule(path), enter is not None)
        for path in plan.rows:
            styles[path] = _rows(block.get_submodule(path), slices)
        for path, parts in plan.packed.items():
            styles[path] = _ColumnsOfConv(enter is not None, parts)
        parallelize_module(block, mesh, styles)
        if enter is not None:
            for path in plan.entrances:
                change_input(block.get_submodule(path), enter)
        for path, name in plan.divided:
            module = block.get_submodule(path)
            setattr(module, name, getattr(module, name) // mesh.size())


def _layers(model: nn.Module, plan: SplitPlan) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model that a plan splits, by path."""
    for path, block in blocks_of(model).items():
        for inner in (*plan.columns, *plan.rows, *plan.packed):
            yield f"{path}.{inner}", block.get_submodule(inner)


def _entrance(model: nn.Module, mesh: DeviceMesh, slices: SequenceSlices | None) -> Callable[[Tensor], Tensor] | None:
    """What is done to hidden states where they enter split layers, once for all that read them.

    None where it is not known that nothing else reads them there: then each layer does it for itself.
    """
    if slices is not None:
        return lambda x: slices.whole(_as_multiplied(x))
    return (lambda x: _summed_gradient(mesh, _as_multiplied(x))) if enters_by_split_layers(model) else None


def _as_multiplied(x: Tensor) -> Tensor:
    """In the type to which each matrix product would cast it: cast, kept and sent once."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _summed_gradient(mesh: DeviceMesh, x: Tensor) -> Tensor:
    """The identity. In the backward pass each process has a term of the gradient, and these are summed."""
    same: Tensor = DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])
    return same


def change_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change the hidden states that a module is called with: its first argument, or the one of that name."""

    def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), named
        return arguments, {**named, "hidden_states": change(named["hidden_states"])}

    module.register_forward_pre_hook(hook, with_kwargs=True)


def _columns(module: nn.Module, has_entrance: bool) -> ParallelStyle:
    if not isinstance(module, nn.Linear):
        return _ColumnsOfConv(has_entrance)
    return _ColumnsOfWhole() if has_entrance else ColwiseParallel()


def _rows(module: nn.Module, slices: SequenceSlices | None) -> ParallelStyle:
    if not isinstance(module, nn.Linear):
        return _RowsOfConv(slices)
    return RowwiseParallel() if slices is None else _RowsToSlices(slices)


class _ColumnsOfWhole(ParallelStyle):
    """``nn.Linear`` whose outputs are divided; the gradients of its input are summed at the entrance."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in module.named_parameters():
            _distribute(module, name, device_mesh, Shard(0), parameter)
        module.forward = partial(_whole_column_forward, module)
        return module


class _RowsToSlices(ParallelStyle):
    """``nn.Linear`` whose inputs are divided; the outputs are summed into slices of the sequence, to which the bias is added."""

    def __init__(self, slices: SequenceSlices):
        super().__init__()
        self.slices = slices

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in module.named_parameters():
            _distribute(module, name, device_mesh, Replicate() if name == "bias" else Shard(1), parameter)
        module.forward = partial(_row_to_slices, module, self.slices)
        return module


class _ColumnsOfConv(ParallelStyle):
    """transformers' ``Conv1D``, a linear layer whose weight is ``[in, out]``, whose outputs are divided.

    With ``parts`` > 1 each of that many matrices side by side is.
    """

    def __init__(self, has_entrance: bool, parts: int = 1):
        super().__init__()
        self.has_entrance = has_entrance
        self.parts = parts

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        weight: Any = module.weight
        placement = Shard(1) if self.parts == 1 else _StridedShard(1, split_factor=self.parts)
        mine = _my_columns(weight.detach(), device_mesh, self.parts).contiguous()
        spread = DTensor.from_local(mine, device_mesh, [placement], run_check=False, shape=weight.shape, stride=weight.stride())
        module.weight = nn.Parameter(spread, requires_grad=weight.requires_grad)
        # Whole in every process: a packed vector that is sharded once more cannot be put together again.
        _distribute(module, "bias", device_mesh, Replicate(), module.bias)
        module.forward = partial(_column_forward, module, device_mesh, self.parts, self.has_entrance)
        return module


class _RowsOfConv(ParallelStyle):
    """``Conv1D`` whose inputs are divided; the outputs are summed, and the bias is added once."""

    def __init__(self, slices: SequenceSlices | None):
        super().__init__()
        self.slices = slices

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, "weight", device_mesh, Shard(0), module.weight)
        _distribute(module, "bias", device_mesh, Replicate(), module.bias)
        module.forward = partial(_row_forward, module, device_mesh) if self.slices is None else partial(_row_to_slices, module, self.slices)
        return module


def _distribute(module: Any, name: str, mesh: DeviceMesh, placement: Placement, whole: Any) -> None:
    spread = distribute_tensor(whole.detach(), mesh, [placement])
    setattr(module, name, nn.Parameter(spread, requires_grad=whole.requires_grad))


def _my_columns(whole: Tensor, mesh: DeviceMesh, parts: int) -> Tensor:
    """Of each of the matrices side by side in the last dimension, this process's piece."""
    return torch.cat([part.chunk(mesh.size(), -1)[mesh.get_local_rank()] for part in whole.chunk(parts, -1)], -1)


def _column_forward(module: Any, mesh: DeviceMesh, parts: int, has_entrance: bool, x: Tensor) -> Tensor:
    # In the backward pass each process has a term of the sums that are the gradients of input and bias.
    if not has_entrance:
        x = _summed_gradient(mesh, x)
    bias = module.bias.to_local(grad_placements=[Partial()])
    mixed: Tensor = torch.matmul(x, module.weight.to_local()) + _my_columns(bias, mesh, parts)
    return mixed


def _row_forward(module: Any, mesh: DeviceMesh, x: Tensor) -> Tensor:
    term = torch.matmul(x, module.weight.to_local())
    summed = DTensor.from_local(term, mesh, [Partial()], run_check=False).redistribute(placements=[Replicate()])
    mixed: Tensor = summed.to_local() + module.bias.to_local()
    return mixed


def _whole_column_forward(module: Any, x: Tensor) -> Tensor:
    return F.linear(x, module.weight.to_local(), None if module.bias is None else module.bias.to_local())


def _row_to_slices(module: Any, slices: SequenceSlices, x: Tensor) -> Tensor:
    weight = module.weight.to_local()
    term = F.linear(x, weight) if isinstance(module, nn.Linear) else torch.matmul(x, weight)
    summed = slices.summed_part(term)
    # Each process adds the bias to its slice, and has that slice's term of its gradient.
    return summed if module.bias is None else summed + module.bias.to_local(grad_placements=[Partial()])
