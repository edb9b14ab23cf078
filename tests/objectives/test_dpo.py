"""Preference losses against their formulas on two models, and what is reported beside them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ironloom.data.preferences import collate_pairs
from ironloom.errors import ConfigError, DataError
from ironloom.objectives import DPO
from ironloom.objectives.chunked import cross_entropy_each
from preferring import answers, pairs, referenced, two_models
from tiny import tiny_lm

KINDS = [("sigmoid", 0.0), ("sigmoid", 0.2), ("sigmoid_norm", 0.0), ("sigmoid_norm", 0.1), ("hinge", 0.0), ("ipo", 0.0)]


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_loss_gradient_and_reports_are_those_of_two_models(kind, smoothing):
    model, reference, samples = tiny_lm(seed=1), tiny_lm(seed=2), pairs()
    twin, objective = copy.deepcopy(model), DPO(kind, 0.3, smoothing)
    batch = collate_pairs(referenced(reference, samples), pad_token_id=7)
    assert objective.weight(batch) == 6
    loss, outputs = objective(model, batch, 6)
    (loss / 6).backward()
    expected = [two_models(twin, reference, sample, kind, 0.3, smoothing) for sample in samples]
    whole = sum(each for each, _ in expected)
    (whole / 6).backward()
    torch.testing.assert_close(loss, whole, atol=1e-6, rtol=1e-6)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)
    rewards = np.array([each for _, each in expected])
    logs = np.array([[found[0].item() for found in answers(twin, sample)] for sample in samples])
    margins = rewards[:, 0] - rewards[:, 1]
    reported = dict(zip(objective.reports, outputs.sums.tolist(), strict=True))
    assert reported == pytest.approx(
        {
            "rewards/chosen": rewards[:, 0].sum(),
            "rewards/rejected": rewards[:, 1].sum(),
            "rewards/accuracies": (margins > 0).sum(),
            "rewards/margins": margins.sum(),
            "logps/chosen": logs[:, 0].sum(),
            "logps/rejected": logs[:, 1].sum(),
        },
        abs=1e-4,
    )


def test_at_the_start_each_pair_costs_log_two():
    model, samples = tiny_lm(), pairs()
    loss, outputs = DPO()(model, collate_pairs(referenced(model, samples)), 6)
    assert loss.item() == pytest.approx(6 * np.log(2), abs=1e-5)
    assert outputs.sums[3].item() == pytest.approx(0, abs=1e-5)


def test_each_target_has_its_loss_whatever_the_size():
    logits = torch.randn(700, 500, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(700) % 500
    targets[::3] = -100
    weights = torch.linspace(0, 1, 700)
    expected = F.cross_entropy(logits, targets, reduction="none")
    found = cross_entropy_each(logits, targets, -100)
    torch.testing.assert_close(found, expected)
    (one,) = torch.autograd.grad((expected * weights).sum(), logits)
    (other,) = torch.autograd.grad((found * weights).sum(), logits)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kto"}, "loss: expected one of sigmoid, ipo, hinge, sigmoid_norm, found 'kto'"),
        ({"beta": 0}, "beta: expected a number above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing: expected a number from 0 to below 0.5"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing: ipo has none"),
    ],
)
def test_what_is_no_loss_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DPO(**options)


def test_pairs_without_reference_are_refused():
    with pytest.raises(DataError, match="no 'reference'"):
        DPO()(tiny_lm(), collate_pairs(pairs()), 6)
