"""The chunked cross entropy is PyTorch's, in value, gradient and errors, at less memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ironloom.objectives import chunked


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows at a time, the last chunk shorter."""
    monkeypatch.setattr(chunked, "CPU_CHUNK", 7 * 33)


def both(logits: torch.Tensor, targets: torch.Tensor, scale: float = 1.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    results = []
    for function in (
        lambda x: F.cross_entropy(x.float(), targets, ignore_index=-100, reduction="sum"),
        lambda x: chunked.cross_entropy_sum(x, targets, -100),
    ):
        leaf = logits.clone().requires_grad_()
        loss = function(leaf)
        loss.backward(torch.tensor(scale))
        assert leaf.grad is not None
        results.append((loss.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1 / 977])
def test_value_and_gradient_equal_pytorch(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    targets = torch.randint(33, (50,))
    targets[::4] = -100
    (loss, gradient), (ours, our_gradient) = both((torch.randn(50, 33) * 5).to(dtype), targets, scale)
    assert ours.dtype is torch.float32 and our_gradient.dtype is dtype
    torch.testing.assert_close(ours, loss, rtol=1e-6, atol=0)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(our_gradient.float(), gradient.float(), rtol=tolerance, atol=1e-7)


def test_large_logits_do_not_overflow() -> None:
    (loss, gradient), (ours, our_gradient) = both(torch.randn(20, 33) * 1e4, torch.randint(33, (20,)))
    torch.testing.assert_close(ours, loss)
    torch.testing.assert_close(our_gradient, gradient)
    assert torch.isfinite(ours)


def test_nothing_counted() -> None:
    (loss, gradient), (ours, our_gradient) = both(torch.randn(20, 33), torch.full((20,), -100))
    assert loss == ours == 0
    assert not our_gradient.any() and not gradient.any()


@pytest.mark.parametrize("bad", [33, -1, 10**9])
def test_a_target_outside_is_an_index_error(bad: int) -> None:
    targets = torch.zeros(20, dtype=torch.int64)
    targets[3] = bad
    with pytest.raises(IndexError):
        chunked.cross_entropy_sum(torch.randn(20, 33), targets, -100)


def test_infinite_logits_are_not_hidden() -> None:
    logits = torch.randn(20, 33)
    logits[2, 2] = float("nan")
    assert not torch.isfinite(chunked.cross_entropy_sum(logits, torch.zeros(20, dtype=torch.int64), -100))


def test_no_float32_copy_of_the_logits_is_kept() -> None:
    """What the graph holds between forward and backward: the logits themselves and a number for each row."""
    logits = torch.randn(500, 33).bfloat16().requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        chunked.cross_entropy_sum(logits, torch.zeros(500, dtype=torch.int64), -100)
    assert all(tensor.dtype is torch.bfloat16 or tensor.numel() == 500 for tensor in kept)
