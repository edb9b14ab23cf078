"""Pairs of answers for a tiny model, and the preference losses as the papers write them: of two models, one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tiny import VOCABULARY


def pairs(count: int = 6, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Pairs with a common prompt and answers of different lengths."""
    draw = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        prompt = draw.integers(0, VOCABULARY, draw.integers(1, 6))
        sample = {}
        for side in ("chosen", "rejected"):
            ids = torch.from_numpy(np.concatenate([prompt, draw.integers(0, VOCABULARY, draw.integers(1, 9))]))
            labels = ids.clone()
            labels[: len(prompt)] = -100
            sample[f"{side}_ids"], sample[f"{side}_labels"] = ids[:-1], labels[1:]
        samples.append(sample)
    return samples


def answers(model: Any, sample: dict[str, torch.Tensor]) -> list[tuple[Any, int]]:
    """Log-probability and length of both answers, token by token, one row at a time."""
    found = []
    for side in ("chosen", "rejected"):
        logs = model(sample[f"{side}_ids"][None])["logits"][0].log_softmax(-1)
        labels = sample[f"{side}_labels"]
        places = [place for place, label in enumerate(labels.tolist()) if label != -100]
        found.append((sum(logs[place, labels[place]] for place in places), len(places)))
    return found


def two_models(
    model: Any, reference: Any, sample: Any, kind: str, beta: float, smoothing: float
) -> tuple[torch.Tensor, tuple[float, float]]:
    """The loss of a pair and its rewards, as the papers write them."""
    with torch.no_grad():
        (old_chosen, _), (old_rejected, _) = answers(reference, sample)
    (chosen, length), (rejected, other) = answers(model, sample)
    c, r = chosen - old_chosen, rejected - old_rejected
    rewards = (beta * c).item(), (beta * r).item()
    if kind in ("sigmoid_norm", "ipo"):
        c, r = c / length, r / other
    if kind == "ipo":
        return (c - r - 1 / (2 * beta)) ** 2, rewards
    if kind == "hinge":
        return torch.clamp(1 - beta * (c - r), min=0), rewards
    d = beta * (c - r)
    return -(1 - smoothing) * torch.log(torch.sigmoid(d)) - smoothing * torch.log(torch.sigmoid(-d)), rewards


def referenced(reference: Any, samples: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The pairs with their log-probabilities under a model."""
    with torch.no_grad():
        return [{**sample, "reference": torch.stack([found[0] for found in answers(reference, sample)])} for sample in samples]
