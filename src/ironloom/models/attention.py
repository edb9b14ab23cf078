"""Causal self-attention with grouped keys and values. Knows nothing of processes or caches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.precision import cast_once
from ironloom.models.rotary import rotate
from ironloom.settings.model import ModelConfig


#: Up to this length PyTorch's kernel for the CPU is slower in half precision than in float32, casts included
#: (1.2 times at 256 tokens and heads of 64, 5 times at 64 and 16).
SHORT = 512


class Attention(nn.Module):
    """Multi-head attention whose query heads share keys and values in groups (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.is_grouped = config.num_key_value_heads != config.num_attention_heads
        self.dropout = config.dropout_attn
        bias = not config.no_bias
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, query_width, bias=bias)
        self.k_proj = nn.Linear(config.d_model, key_width, bias=bias)
        self.v_proj = nn.Linear(config.d_model, key_width, bias=bias)
        self.o_proj = nn.Linear(query_width, config.d_model, bias=bias)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: Hidden states ``[B, S, d_model]``.
            turns: Cosines and signed sines of :class:`~ironloom.models.rotary.Rotary`, or None.
            mask: Boolean ``[B, 1, S, S]``, True where a query may look; None for plain causal attention.

        Returns:
            ``[B, S, d_model]``.
        """
        batch, length, _ = x.shape
        x = cast_once(x)
        heads = (batch, length, -1, self.head_dim)
        queries = self.q_proj(x).view(heads)
        keys = self.k_proj(x).view(heads)
        if turns is not None:
            queries = rotate(queries, *turns)
            keys = rotate(keys, *turns)
        dropout = self.dropout if self.training else 0.0
        values = self.v_proj(x).view(heads)
        options: dict[str, Any] = {"dropout_p": dropout, "is_causal": mask is None, "enable_gqa": self.is_grouped}
        if values.device.type == "cpu" and length <= SHORT:
            mixed = _in_float32(queries, keys, values, mask, options)
        else:
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, **options
            )
        out = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return F.dropout(out, dropout) if dropout else out


def _in_float32(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Attention of heads ``[B, S, H, head_dim]`` in float32, whatever their dtype, which the result ``[B, H, S, head_dim]`` has."""
    dtype = values.dtype
    heads = (queries.float().transpose(1, 2), keys.float().transpose(1, 2), values.float().transpose(1, 2))
    if dtype is torch.float32:
        return F.scaled_dot_product_attention(*heads, attn_mask=mask, **options)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(*heads, attn_mask=mask, **options).to(dtype)


def causal_padding_mask(attention_mask: Tensor) -> Tensor:
    """Where each query may look: at itself and at earlier positions that are not padding.

    Every position sees itself, padding too, so that no row of the softmax is empty and no NaN arises.

    Args:
        attention_mask: ``[B, S]``, 0 at padding.

    Returns:
        Boolean ``[B, 1, S, S]``.
    """
    length, device = attention_mask.shape[1], attention_mask.device
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return (causal & attention_mask.bool()[:, None, None, :]) | itself
