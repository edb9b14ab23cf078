"""What happens in a forward pass: which modules are called in which order, what passes between them, which parameters count.

A model is watched, not parsed: whatever its forward is, a place where it can be cut is a module that is called once and
takes or gives one tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        begin: Number of the event of its beginning; calls and returns are counted together.
        end: Number of the event of its end.
        given: First floating-point tensor among its arguments, or None.
        result: The same of what it returned, or None.
        width: Length of the tuple that it returned, 0 for a single tensor, -1 for anything else.
    """

    begin: int
    end: int
    given: torch.Tensor | None
    result: torch.Tensor | None
    width: int


@dataclass
class Trace:
    """A forward pass.

    Attributes:
        calls: Calls of each module, by its path in the model.
        outputs: What the model returned.
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    outputs: Any = None


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Run a model and record the calls of its modules."""
    record, clock, open_calls = Trace(), iter(range(2**62)), []
    handles = []
    for path, module in model.named_modules():
        if not path:
            continue

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            open_calls.append((next(clock), first_tensor((*args, *kwargs.values()))))

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            begin, given = open_calls.pop()
            width = 0 if isinstance(output, torch.Tensor) else len(output) if type(output) is tuple else -1
            record.calls.setdefault(path, []).append(Call(begin, next(clock), given, first_tensor([output]), width))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        record.outputs = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return record


def first_tensor(values: Any) -> torch.Tensor | None:
    """The first floating-point tensor among values, the first element of a tuple or list standing for it."""
    for value in values:
        candidate = value[0] if isinstance(value, (tuple, list)) and value else value
        if isinstance(candidate, torch.Tensor) and candidate.is_floating_point():
            return candidate
    return None


def layer_chain(model: nn.Module, record: Trace) -> list[str]:
    """Paths of the layers: children of one module, each called once, each given what the one before returned.

    Of several such chains the one with most parameters.
    """
    best: list[str] = []
    best_size = 0
    for path, module in model.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        run = _longest_run([name for name in names if len(record.calls.get(name, ())) == 1], record)
        size = sum(parameter.numel() for name in run for parameter in model.get_submodule(name).parameters())
        if len(run) > 1 and size > best_size:
            best, best_size = run, size
    return best


def _longest_run(paths: Sequence[str], record: Trace) -> list[str]:
    runs: list[list[str]] = [[]]
    for path in sorted(paths, key=lambda path: record.calls[path][0].begin):
        call = record.calls[path][0]
        if call.result is None or call.width < 0:
            runs.append([])
            continue
        follows = runs[-1] and record.calls[runs[-1][-1]][0].result is call.given
        runs[-1:] = [[*runs[-1], path]] if follows else [runs[-1], [path]]
    return max(runs, key=len)


def used_parameters(output: torch.Tensor) -> set[int]:
    """Identities of the parameters that a result depends on, from its autograd graph."""
    found, seen, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        waiting.extend(following for following, _ in node.next_functions)
    return found


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode and every parameter has a gradient; then it is as before."""
    training = [module for module in model.modules() if module.training]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad and parameter.is_floating_point()]
    model.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module in training:
            module.training = True


def sample(inputs: Mapping[str, Any], rows: int, length: int) -> dict[str, Any]:
    """A small batch made of one: ``rows`` samples of ``length`` tokens, repeated if there are not as many.

    Args:
        inputs: Arguments of the model's forward; the second dimension of ``input_ids`` is the sequence, there and elsewhere.
        rows: Samples wanted.
        length: Tokens wanted.
    """
    ids = inputs.get("input_ids")
    first = next((value for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim), None)
    if first is None:
        return dict(inputs)
    result = dict(inputs)
    for name, value in inputs.items():
        if not (isinstance(value, torch.Tensor) and value.ndim and len(value) == len(first)):
            continue
        part = value[torch.arange(rows, device=value.device) % len(value)]
        for dim in _sequence_dims(part, ids):
            part = part.index_select(dim, torch.arange(length, device=part.device) % part.shape[dim])
        result[name] = part
    return result


def _sequence_dims(part: torch.Tensor, ids: Any) -> list[int]:
    """The dimensions that are sequences: the second one; in masks, which may be of pairs of tokens, every one of that length."""
    if not isinstance(ids, torch.Tensor) or ids.ndim < 2:
        return []
    dims = range(1, part.ndim if part.ndim == 4 or not part.is_floating_point() else min(part.ndim, 2))
    return [dim for dim in dims if part.shape[dim] == ids.shape[1]]


#: Samples and tokens of the two batches that tell how shapes follow the batch; no two are alike.
PROBES = ((2, 5), (3, 7))


@dataclass(frozen=True)
class Shape:
    """A shape as a function of samples and tokens.

    Attributes:
        dims: ``"rows"``, ``"length"``, ``"both"`` (their product) or a number for each dimension.
        dtype: Of the tensor.
    """

    dims: tuple[str | int, ...]
    dtype: torch.dtype

    def of(self, rows: int, length: int) -> tuple[int, ...]:
        """The shape for a batch."""
        sizes = {"rows": rows, "length": length, "both": rows * length}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)


def shape_of(tensors: Sequence[torch.Tensor]) -> Shape | None:
    """The shape of a tensor that was seen with both of ``PROBES``; None if it follows neither samples nor tokens."""
    (rows, length), (other_rows, other_length) = PROBES
    known: dict[tuple[int, int], str] = {(length, other_length): "length", (rows * length, other_rows * other_length): "both"}
    known[rows, other_rows] = "rows"
    one, other = tensors
    if one.ndim != other.ndim:
        return None
    dims: list[str | int] = []
    for pair in zip(one.shape, other.shape, strict=True):
        dim = pair[0] if pair[0] == pair[1] else known.get(pair)
        if dim is None:
            return None
        dims.append(dim)
    return Shape(tuple(dims), one.dtype)
