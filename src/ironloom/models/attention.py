"""Causal self-attention with grouped keys and values. Knows nothing of processes or caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.documents import Documents
from ironloom.models.flex import BlockMasks
from ironloom.models.precision import cast_once
from ironloom.models.rotary import rotate
from ironloom.settings.model import ModelConfig

#: Up to this length, in half precision on the CPU, plain matrix products are faster than PyTorch's kernel, which
#: does without the native half-precision instructions: 2.6 times at 256 tokens and heads of 64, 4 times at 64 and 16.
SHORT = 512

#: What tells a query where it may look.
Mask = Tensor | Documents | BlockMasks | None


class Attention(nn.Module):
    """Multi-head attention whose query heads share keys and values in groups (Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        config: The shape.
        layer: Number of the layer, from 0; it decides whether there is a sliding window.

    Attributes:
        attend: Mixes values; :func:`attend`, or what is put in its place, say by those who spread a sequence over processes.
        window: How many tokens a token sees, itself among them; None for all before it. Given to ``attend`` where there is one.
    """

    def __init__(self, config: ModelConfig, layer: int = 0):
        super().__init__()
        self.head_dim = config.head_dim
        self.attend: Callable[..., Tensor] = attend
        self.dropout = config.dropout_attn
        self.window = config.window_of(layer)
        bias = config.has_qkv_bias
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, query_width, bias=bias)
        self.k_proj = nn.Linear(config.d_model, key_width, bias=bias)
        self.v_proj = nn.Linear(config.d_model, key_width, bias=bias)
        self.o_proj = nn.Linear(query_width, config.d_model, bias=config.has_output_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.ln_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.ln_eps) if config.qk_norm else None

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None = None, mask: Mask = None) -> Tensor:
        """Attend.

        Args:
            x: Hidden states ``[B, S, d_model]``.
            turns: Cosines and signed sines of :class:`~ironloom.models.rotary.Rotary`, or None.
            mask: Boolean ``[B, 1, S, S]``, True where a query may look; documents that do not see each other; masks for
                FlexAttention; None for plain causal attention.

        Returns:
            ``[B, S, d_model]``.
        """
        batch, length, _ = x.shape
        x = cast_once(x)
        heads = (batch, length, -1, self.head_dim)
        queries = self.q_proj(x).view(heads)
        keys = self.k_proj(x).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries).to(x.dtype), self.k_norm(keys).to(x.dtype)
        if turns is not None:
            queries = rotate(queries, *turns)
            keys = rotate(keys, *turns)
        dropout = self.dropout if self.training else 0.0
        values = self.v_proj(x).view(heads)
        near = {} if self.window is None else {"window": self.window}
        mixed = self.attend(queries, keys, values, mask, dropout, **near)
        out = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return F.dropout(out, dropout) if dropout else out


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, dropout: float, window: int | None = None) -> Tensor:
    """Causal attention by PyTorch's kernels.

    Args:
        queries: ``[B, S, H, head_dim]``.
        keys: ``[B, S, G, head_dim]``; H is a multiple of G.
        values: As the keys.
        mask: As in :meth:`Attention.forward`.
        dropout: Probability with which a weight of the softmax is dropped.
        window: A query sees this many tokens, itself among them; None for all before it.

    Returns:
        ``[B, H, S, head_dim]``.
    """
    if isinstance(mask, (Documents, BlockMasks)):
        return mask.attend(attend, queries, keys, values, dropout, window)
    length, device = queries.shape[1], values.device.type
    if window is not None and window < length:
        mask = _within(window, length, mask, queries.device)
    if not dropout and length <= SHORT and device == "cpu" and values.dtype is not torch.float32:
        return _plain(queries, keys, values, mask)
    if mask is not None and device != "cpu":
        # Of the kernels of accelerators those that take a mask want as many keys as queries; else all scores would be in memory.
        keys, values = _repeated(keys, queries), _repeated(values, queries)
    is_grouped = queries.shape[2] != keys.shape[2]
    options: dict[str, Any] = {"dropout_p": dropout, "is_causal": mask is None, "enable_gqa": is_grouped}
    return F.scaled_dot_product_attention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, **options)


def _plain(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """:func:`attend` by two matrix products, causal without a mask: heads ``[B, S, H, head_dim]``, mask ``[B, 1, S, S]`` or ``[S, S]``."""
    length, keys, values = queries.shape[1], _repeated(keys, queries), _repeated(values, queries)
    if mask is None:
        hidden = torch.full((length, length), -torch.inf, dtype=queries.dtype, device=queries.device).triu(1)
    else:
        hidden = torch.zeros(mask.shape, dtype=queries.dtype, device=queries.device).masked_fill_(~mask, -torch.inf)
    scores = torch.matmul(queries.transpose(1, 2) * queries.shape[-1] ** -0.5, keys.permute(0, 2, 3, 1))
    return torch.matmul(scores.add_(hidden).softmax(dim=-1), values.transpose(1, 2))


def _repeated(heads: Tensor, queries: Tensor) -> Tensor:
    """Heads ``[B, S, G, head_dim]`` of keys or values, one for each of the queries ``[B, S, H, head_dim]``."""
    size = queries.shape[2] // heads.shape[2]
    return heads if size == 1 else heads.repeat_interleave(size, dim=2)


def _within(window: int, length: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """Where a query may look that sees ``window`` tokens: boolean ``[S, S]``, or ``[B, 1, S, S]`` with a mask of what else it sees."""
    place = torch.arange(length, device=device)
    back = place[:, None] - place
    return (back >= 0) & (back < window) if mask is None else mask & (back < window)


def causal_padding_mask(attention_mask: Tensor) -> Tensor:
    """Where each query may look: at itself and at earlier positions that are not padding.

    Every position sees itself, padding too, so that no row of the softmax is empty and no NaN arises.

    Args:
        attention_mask: ``[B, S]``, 0 at padding. One of four dimensions says already what each query sees, and is returned.

    Returns:
        Boolean ``[B, 1, S, S]``.
    """
    if attention_mask.ndim == 4:
        return attention_mask
    length, device = attention_mask.shape[1], attention_mask.device
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return (causal & attention_mask.bool()[:, None, None, :]) | itself
