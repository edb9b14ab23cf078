"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split layout of Hugging Face Llama.

Number ``i`` of a head is paired with number ``i + head_dim / 2``. Weights trained with this layout are
exchanged with Hugging Face Llama without permuting anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ironloom.settings.model import PositionalEmbedding


class Rotary(nn.Module):
    """Cosines and sines of the positions of a sequence.

    The tables for ``max_seq_len`` positions are computed once, in float32. They are buffers that are not
    saved; after ``to_empty`` call :meth:`reset`.

    Args:
        settings: ``base``, ``offset`` (position of the first token), and what positions are divided by: ``scaling`` and what
            belongs to it.
        head_dim: Width of an attention head; even.
        max_seq_len: Number of positions in the tables. Longer sequences are computed when they come.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, settings: PositionalEmbedding, head_dim: int, max_seq_len: int):
        super().__init__()
        self.settings = settings
        self.offset = settings.offset
        self.head_dim = head_dim
        self.max_seq_len = max_seq_len
        self.register_buffer("cos", torch.empty(max_seq_len, 1, head_dim), persistent=False)
        self.register_buffer("sin", torch.empty(max_seq_len, 1, head_dim), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill the tables. Computed on the CPU, so that every device has the same numbers."""
        cos, sin = self._turns(torch.arange(self.max_seq_len, device="cpu"))
        self.cos.copy_(cos)
        self.sin.copy_(sin)

    def forward(self, seq_len: int, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each ``[S, 1, head_dim]``, or ``[B, S, 1, head_dim]`` for given positions.

        Args:
            seq_len: Length S of the sequence.
            position_ids: Positions ``[B, S]`` instead of ``0 .. S - 1``; the offset is added to them.
        """
        if position_ids is not None:
            return self._turns(position_ids)
        if seq_len > self.max_seq_len:
            return self._turns(torch.arange(seq_len, device=self.cos.device))
        return self.cos[:seq_len], self.sin[:seq_len]

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = _frequencies(self.settings, self.head_dim, positions.device)
        angles = ((positions + self.offset).float()[..., None] * frequencies)[..., None, :]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _frequencies(settings: PositionalEmbedding, head_dim: int, device: torch.device) -> Tensor:
    """Angle per position of each pair of a head: ``[head_dim / 2]``."""
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    frequencies = 1.0 / (settings.base**exponents)
    scaled = frequencies / settings.scaling_factor
    if settings.scaling == "linear":
        return scaled
    # Llama 3.1: slow turns are scaled, fast ones are not, between the two it is faded (Grattafiori et al. 2024, arXiv:2407.21783).
    turns = settings.original_max_seq_len * frequencies / (2 * math.pi)
    share = ((turns - settings.low_freq_factor) / (settings.high_freq_factor - settings.low_freq_factor)).clamp(0.0, 1.0)
    return (1 - share) * scaled + share * frequencies


def rotate(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Turn every head by the angles of its position; arithmetic in float32, result in the dtype of ``heads``.

    A roll by half the width swaps the members of each pair, and the sign in the sines does the rest:
    three operations where concatenating negated halves takes seven.

    Args:
        heads: Queries or keys ``[B, S, H, head_dim]``.
        cos: Cosines, as :class:`Rotary` gives them.
        signed_sin: Sines, negative in the first half.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin).to(heads.dtype)
