"""Token and position vectors, and the norms between the blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.settings.model import ModelConfig


class Embedding(nn.Embedding):
    """``nn.Embedding`` that draws nothing on the meta device, where a draw would import PyTorch's compiler (2 s)."""

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation, where there is memory for it."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Positions(nn.Module):
    """One learned vector per position."""

    def __init__(self, max_seq_len: int, d_model: int):
        super().__init__()
        self.max_seq_len = max_seq_len
        self.weight = nn.Parameter(torch.empty(max_seq_len, d_model))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)

    def forward(self, seq_len: int, position_ids: Tensor | None = None) -> Tensor:
        """Vectors ``[S, d_model]``, or ``[B, S, d_model]`` for given positions ``[B, S]``.

        Raises:
            ValueError: If the sequence is longer than the table.
        """
        if seq_len > self.max_seq_len:
            raise ValueError(
                f"a sequence of {seq_len} tokens is longer than max_seq_len {self.max_seq_len}: "
                "learned positions end there; shorten the input or train with a larger max_seq_len"
            )
        if position_ids is not None:
            return F.embedding(position_ids, self.weight)
        return self.weight[:seq_len]


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` in the type of its input: weights gathered in half precision would keep PyTorch from its fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d_model]`` in and out."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation that ``ln_type`` names, over the last dimension."""
    if config.ln_type == "rmsnorm":
        return RMSNorm(config.d_model, eps=config.ln_eps)
    return nn.LayerNorm(config.d_model, eps=config.ln_eps, bias=not config.no_bias)
