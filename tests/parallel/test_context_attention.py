"""Attention over a group of processes equals PyTorch's attention over the whole sequence in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo  # before the processes are forked: each would take seconds for what a backward pass imports of it
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ironloom.parallel import context_attention, context_ring
from ironloom.parallel.context import Layout
from ironloom.parallel.context_attention import attend_gathered
from ironloom.parallel.context_batch import in_order, local_part
from ironloom.parallel.context_ring import attend_ring
from spawned import run

LENGTH = 48
WAYS = {"allgather": attend_gathered, "alltoall": attend_ring}


def _case(heads=4, groups=4, width=8, value_width=8, mask=None, window=None, scale=None, order="zigzag", dtype=torch.float64):
    return locals()


CASES: dict[str, dict[str, Any]] = {
    "plain": _case(),
    "contiguous": _case(order="contiguous"),
    "grouped": _case(groups=2),
    "one group": _case(groups=1, order="contiguous"),
    "other width of values": _case(value_width=5),
    "scale": _case(scale=0.5),
    "window": _case(window=7),
    "window as long as a chunk": _case(window=6, groups=2, order="contiguous"),
    "window of two": _case(window=2),
    "window longer than all": _case(window=100, groups=2),
    "padding": _case(mask="left"),
    "padding, grouped": _case(mask="right", groups=2, order="contiguous"),
    "padding in a window": _case(mask="right", window=9, groups=2),
    "bfloat16": _case(dtype=torch.bfloat16, groups=2),
    "float16": _case(dtype=torch.float16, order="contiguous"),
    "float32": _case(dtype=torch.float32, groups=2, mask="left"),
}


def _tensors(case):
    draw = torch.Generator().manual_seed(3)
    shapes = [(case["heads"], case["width"]), (case["groups"], case["width"]), (case["groups"], case["value_width"])]
    shapes.append((case["heads"], case["value_width"]))
    return [torch.randn(2, heads, LENGTH, width, generator=draw, dtype=torch.float64).to(case["dtype"]) for heads, width in shapes]


def _visible(case):
    """Padding and causality, but not the window, which is an argument of its own."""
    padding = torch.ones(2, LENGTH, dtype=torch.bool)
    if case["mask"] == "left":
        padding[0, :11] = False
    else:
        padding[1, -13:] = False
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return (causal & padding[:, None, None, :]) | torch.eye(LENGTH, dtype=torch.bool)


def _whole(case):
    """Output and gradients of one process, in float64 whatever the dtype of the inputs."""
    queries, keys, values, given = (tensor.double().requires_grad_() for tensor in _tensors(case))
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    if case["window"]:
        seen = seen.triu(1 - case["window"])
    if case["mask"]:
        seen = _visible(case) & seen
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=case["scale"], enable_gqa=True)
    return [out.detach(), *torch.autograd.grad((out * given).sum(), (queries, keys, values))]


def _shared(way: str, scores: int):
    """The same, by all processes together: for each case the largest error relative to the largest number."""
    context_ring.CPU_SCORES = scores
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    errors = {}
    for name, case in CASES.items():
        layout = Layout(dist.get_world_size(), dist.get_rank(), case["order"])
        *heads, given = (local_part(tensor, layout, dim=2) for tensor in _tensors(case))
        queries, keys, values = (tensor.detach().requires_grad_() for tensor in heads)
        mask = local_part(_visible(case), layout, dim=2) if case["mask"] else None
        options = {"layout": layout, "group": group, "mask": mask, "window": case["window"], "scale": case["scale"]}
        out = WAYS[way](queries, keys, values, **options)
        assert out.dtype is case["dtype"]
        mine = [out.detach(), *torch.autograd.grad((out * given).sum(), (queries, keys, values))]
        errors[name] = []
        for part, expected in zip(mine, _whole(case), strict=True):
            parts = [torch.empty_like(part.contiguous()) for _ in range(layout.size)]
            dist.all_gather(parts, part.contiguous())
            error = (in_order(parts, layout, dim=2).double() - expected).abs().max() / expected.abs().max()
            errors[name].append(float(error))
    dist.destroy_process_group()
    return errors


@pytest.mark.parametrize(
    "way, size, scores",
    [("allgather", 1, 0), ("allgather", 2, 0), ("allgather", 4, 0), ("alltoall", 1, 2**22), ("alltoall", 2, 100), ("alltoall", 4, 2**22)],
)
def test_output_and_gradients_are_those_of_one_process(way, size, scores):
    """In a ring, whatever the number of scores that are held at a time."""
    limits = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
    for errors in run(_shared, size, way, scores):
        assert errors.keys() == CASES.keys()
        wrong = {name: values for name, values in errors.items() if max(values) > limits[CASES[name]["dtype"]]}
        assert not wrong


def _kernel(nothing: Any = None) -> float:
    queries, keys, values, _ = _tensors(_case(groups=2))
    mixed = context_attention._attend(queries[:, :, -16:], keys, values, None, 0.0, None)
    whole = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    return float((mixed - whole[:, :, -16:]).abs().max())


def test_the_mask_that_cuda_kernels_know_is_aligned_with_the_last_key():
    """In a process of its own, because it imports PyTorch's compiler."""
    assert run(_kernel, 1)[0] < 1e-14


def _dropped(way: str):
    """Values of one, so that a query's output is the sum of the weights that were kept."""
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    layout = Layout(2, dist.get_rank())
    queries = torch.zeros(8, 4, 64, 8)
    values = torch.ones(8, 4, 64, 1, requires_grad=True)
    out = WAYS[way](queries, queries, values, layout=layout, group=dist.group.WORLD, dropout=0.25)
    out.sum().backward()
    total = torch.stack((out.detach().sum(), values.grad.sum()))
    dist.all_reduce(total)
    dist.destroy_process_group()
    return out.detach().flatten()[:500].tolist(), total.tolist(), float(out.detach().mean())


@pytest.mark.parametrize("way", WAYS)
def test_dropout_is_drawn_by_each_rank_and_the_same_forward_and_backward(way):
    (first, total, first_mean), (second, _, second_mean) = run(_dropped, 2, way)
    # Many are off from one by far, and not by the same in both ranks: with keys of zero, a row of n keys keeps some of n equal weights.
    assert max(abs(value - 1) for value in first + second) > 0.1
    assert sum(abs(one - other) > 1e-3 for one, other in zip(first, second, strict=True)) > 100
    assert first_mean == pytest.approx(1, abs=0.02) and second_mean == pytest.approx(1, abs=0.02)
    # The output is linear in the values, which are one: its sum is the sum of its gradients.
    assert total[0] == pytest.approx(total[1], rel=1e-5)


def _summed(nothing: Any = None) -> list[float]:
    """Each rank gives 256 for one number of rank 0 and 1 for the others: in bfloat16, 256 and 1 are 256."""
    dist.init_process_group("gloo")
    local = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    given = torch.where(torch.arange(3) == dist.get_rank(), 256.0, 1.0).bfloat16()
    (context_attention.gather(local, dist.group.WORLD)[0] * given).sum().backward()
    dist.destroy_process_group()
    return local.grad.tolist()


def test_gradients_in_half_precision_are_summed_in_float32():
    assert run(_summed, 3)[0] == [258.0] * 3


class _Largest(TorchDispatchMode):
    """The most numbers that any tensor has which an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def _held(way: str) -> float:
    """The largest tensor of a forward and backward pass, in numbers of a rank's own keys."""
    dist.init_process_group("gloo")
    heads = [torch.randn(1, 2, 16, 256).requires_grad_() for _ in range(3)]
    layout = Layout(dist.get_world_size(), dist.get_rank())
    with _Largest() as largest:
        WAYS[way](*heads, layout=layout, group=dist.group.WORLD).sum().backward()
    dist.destroy_process_group()
    return largest.numbers / heads[0].numel()


def test_in_a_ring_no_rank_holds_the_keys_of_the_whole_sequence():
    assert max(run(_held, 4, "alltoall")) <= 1
    assert min(run(_held, 4, "allgather")) >= 4
