"""Labels that do not all count alike: the loss is that of PyTorch's own function, target by target, times the weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ironloom.errors import ConfigError, DataError
from ironloom.objectives import DPO, CrossEntropy, FunctionLoss, MethodLoss, ModelLoss, choose_objective, chunked
from ironloom.parallel.pipeline.loss import MeanLoss


def example(shape: tuple[int, int] = (4, 9), classes: int = 13) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, classes, generator=draw)
    labels = torch.randint(0, classes, shape, generator=draw)
    labels[0, :5] = -100
    weights = 3 * torch.rand(shape, generator=draw)
    weights[1, 2:4], weights[2] = 0, 0.25
    return logits, labels, weights


def closed_form(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """Sum of the weighted losses, sum of the weights, gradient of the sum, in float64."""
    exact = logits.detach().double().requires_grad_()
    losses = F.cross_entropy(exact.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=-100)
    total = (losses * weights.double().flatten()).sum()
    (gradient,) = torch.autograd.grad(total, exact)
    return total.item(), float((weights.double() * (labels != -100)).sum()), gradient


@pytest.mark.parametrize("chunk", [2**18, 50], ids=["at once", "in chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_weighted_cross_entropy(chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CPU_CHUNK", chunk)
    logits, labels, weights = example()
    given = logits.to(dtype).requires_grad_()
    batch = {"input_ids": labels, "shift_labels": labels, "loss_weights": weights}
    found = CrossEntropy().loss_sum(given, batch, 1)
    (gradient,) = torch.autograd.grad(found, given)
    total, weight, expected = closed_form(given, labels, weights)
    assert found.item() == pytest.approx(total, rel=1e-6)
    assert CrossEntropy().weight(batch) == pytest.approx(weight, rel=1e-12)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-7)


def test_weights_belong_to_the_labels_beside_them() -> None:
    """Labels that are shifted take their weights along; a label of a whole sample has one."""
    logits, labels, weights = example()
    rule = CrossEntropy()
    shifted = {"shift_labels": F.pad(labels[:, 1:], (0, 1), value=-100), "loss_weights": F.pad(weights[:, 1:], (0, 1), value=7.0)}
    plain = {"labels": labels, "loss_weights": weights}
    assert rule.weight(plain) == rule.weight(shifted)
    assert torch.equal(rule.loss_sum(logits, plain, 1), rule.loss_sum(logits, shifted, 1))
    whole = {"labels": labels[1:, 0], "loss_weights": weights[1:, 0]}
    total, weight, _ = closed_form(logits[1:, 0], labels[1:, 0], weights[1:, 0])
    assert rule.weight(whole) == pytest.approx(weight, rel=1e-12)
    assert rule.loss_sum(logits[1:, 0], whole, 1).item() == pytest.approx(total, rel=1e-6)


def test_weights_of_one_change_no_bit() -> None:
    logits, labels, weights = example()
    for given in ({"labels": labels}, {"shift_labels": labels}):
        ones = {**given, "loss_weights": torch.ones_like(weights)}
        weight = CrossEntropy().weight(ones)
        assert (weight, type(weight)) == (CrossEntropy().weight(given), int)
        assert CrossEntropy().loss_sum(logits, ones, 1).item() == pytest.approx(CrossEntropy().loss_sum(logits, given, 1).item(), rel=1e-6)


def test_what_weighs_nothing_is_no_target() -> None:
    """Whatever its loss is: here it is infinite."""
    logits, labels, weights = example()
    logits[1, 2] = -torch.inf
    logits[1, 2, (labels[1, 2] + 1) % 13] = 0
    assert weights[1, 2] == 0
    batch = {"shift_labels": labels, "loss_weights": weights}
    assert torch.isfinite(CrossEntropy().loss_sum(logits, batch, 1))


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
def test_what_is_no_weight_is_named(bad: float) -> None:
    _, labels, weights = example()
    weights[2, 3] = bad
    with pytest.raises(DataError, match=rf"finite numbers, 0 or more; that of label \(2, 3\) is {bad} \(1 such"):
        CrossEntropy().weight({"shift_labels": labels, "loss_weights": weights})


@pytest.mark.parametrize("key", ["labels", "shift_labels"])
def test_each_label_has_one_weight(key: str) -> None:
    logits, labels, weights = example()
    for given, found in ((weights[:, 1:], r"of shape \(4, 8\)"), (weights.tolist(), "a list")):
        batch = {key: labels, "loss_weights": given}
        for ask in (CrossEntropy().weight, lambda batch: CrossEntropy().loss_sum(logits, batch, 1)):
            with pytest.raises(DataError, match=rf"loss_weights are {found}, labels of shape \(4, 9\)"):
                ask(batch)


def test_no_model_is_given_the_weights() -> None:
    _, labels, weights = example()
    batch = {"input_ids": labels, "labels": labels, "loss_weights": weights}
    assert set(CrossEntropy().inputs(batch)) == {"input_ids"}
    assert set(CrossEntropy(keep_labels=True).inputs(batch)) == {"input_ids", "labels"}


@pytest.mark.parametrize(
    "objective",
    [FunctionLoss(lambda *args, **more: None), ModelLoss(), MeanLoss(lambda *args: None), DPO()],  # type: ignore[arg-type,return-value]
    ids=lambda objective: type(objective).__name__,
)
def test_a_loss_that_would_not_heed_them_is_refused(objective: Any) -> None:
    _, labels, weights = example()
    with pytest.raises(ConfigError, match=r"the batches have 'loss_weights', which .* does not heed"):
        objective.weight({"input_ids": labels, "labels": labels, "loss_weights": weights})


def test_a_method_of_the_users_own_weighs_as_much() -> None:
    _, labels, weights = example()
    batch = {"labels": labels, "loss_weights": weights}
    assert MethodLoss(lambda *args, **more: None).weight(batch) == CrossEntropy().weight(batch)


class Own(nn.Module):
    """Computes a mean of its own where it has labels, as many models do."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = F.one_hot(input_ids, 13).float() * 3
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


class Weighing(nn.Module):
    """Has weights among its arguments."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, loss_weights: torch.Tensor) -> Any:
        losses = F.cross_entropy(F.one_hot(input_ids, 13).float().transpose(1, 2)[..., :-1], labels[:, 1:], reduction="none")
        weights = loss_weights[:, 1:] * (labels[:, 1:] != -100)
        return SimpleNamespace(loss=(losses * weights).sum() ** 2 / weights.sum())


def test_a_models_own_cross_entropy_is_recognised_beside_weights() -> None:
    _, labels, weights = example()
    batch = {"input_ids": labels.clamp(min=0), "labels": labels, "loss_weights": weights}
    assert isinstance(choose_objective(Own(), lambda: batch), CrossEntropy)
    own = choose_objective(Weighing(), lambda: batch)
    assert isinstance(own, ModelLoss)
    assert own.weight(batch) == CrossEntropy().weight(batch)
    assert float(own(Weighing(), batch, 1)[0]) == pytest.approx(float(Weighing()(**batch).loss) * own.weight(batch))
