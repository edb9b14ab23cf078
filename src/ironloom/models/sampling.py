"""Which token comes next, given the scores of all. Knows no models.

The order and the meaning are those of the logits processors of ``transformers``: repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironloom.device import random_key


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw among this many likeliest tokens, and those as likely as the last of them.
        top_p: Draw among the fewest likeliest tokens whose probabilities reach this sum (Holtzman et al. 2019, arXiv:1904.09751).
        repetition_penalty: Divides the positive logits of tokens that the text has already, prompt included, and multiplies the
            negative ones (Keskar et al. 2019, arXiv:1909.05858); 1 changes nothing.

    Raises:
        ValueError: If one is out of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, found {self.top_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0, found {self.repetition_penalty}")

    def choose(self, logits: Tensor, seen: Tensor | None, draws: Sequence[float]) -> Tensor:
        """The next token of each row.

        Draws are made on the CPU from given numbers, so that every device draws the same and no generator moves.

        Args:
            logits: ``[B, V]``.
            seen: Boolean ``[B, V]`` on the CPU, which tokens each text has already; None where there is no penalty.
            draws: A number in [0, 1) for each row; without meaning at temperature 0.

        Returns:
            ``[B]``, on the CPU.
        """
        if self.temperature == 0 and seen is None:
            return logits.argmax(dim=-1).cpu()
        scores = self._penalised(logits.float().cpu(), seen)
        if self.temperature == 0:
            return scores.argmax(dim=-1)
        probabilities, tokens = self._ranked(scores)
        reached = probabilities.double().cumsum(dim=-1)
        aim = torch.tensor(draws, dtype=torch.float64)[:, None] * reached[:, -1:]
        rank = (reached <= aim).sum(dim=-1).minimum((probabilities > 0).sum(dim=-1) - 1)
        return tokens.gather(1, rank[:, None])[:, 0]

    def probabilities(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """With which probability each token is drawn, ``[B, V]`` in the order of the vocabulary; the temperature is not 0."""
        found, tokens = self._ranked(self._penalised(logits.float().cpu(), seen))
        return torch.zeros_like(found).scatter(1, tokens, found)

    def _penalised(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        if seen is None:
            return scores
        penalty = self.repetition_penalty
        return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)

    def _ranked(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, the largest first, and the tokens that they belong to."""
        ranked, tokens = (scores / self.temperature).sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None and self.top_k < ranked.shape[-1]:
            ranked = ranked.masked_fill(ranked < ranked[:, self.top_k - 1, None], -torch.inf)
        probabilities = ranked.softmax(dim=-1)
        if self.top_p is not None:
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0.0)
            probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        return probabilities, tokens


def draw(seed: int, step: int) -> float:
    """The number in [0, 1) that draws the token of a text after ``step`` new ones."""
    return (random_key("generate", seed, step) >> 11) / 2.0**53
