"""Causal attention of local queries to the keys and values of the whole sequence, exact forward and backward.

Keys and values of all ranks are gathered before the attention; in the backward pass their gradients are summed over the ranks and
each rank receives those of its own tokens (all-gather and reduce-scatter, as in Llama 3, arXiv:2407.21783, section 3.3.2). With
grouped heads that is little beside the queries, and the attention itself is PyTorch's, on any device and in any dtype.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ironloom.parallel.context import Layout
from ironloom.parallel.context_batch import in_order


def attend_gathered(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    layout: Layout,
    group: dist.ProcessGroup,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attend, in the order in which the layout gives this rank its tokens.

    Dropout is drawn from this rank's generator, for its own queries: ranks must be seeded differently.

    Args:
        queries: ``[B, H, L, D]`` of the local tokens.
        keys: ``[B, G, L, D]`` of the local tokens; H is a multiple of G.
        values: ``[B, G, L, E]`` of the local tokens.
        layout: Who holds what.
        group: The processes that share the sequence; all of them call this function, in the same order.
        mask: Boolean ``[B, 1, L, size * L]``, True where a query may look, never at later tokens; None for plain causal attention.
        dropout: Probability with which a weight of the softmax is dropped.
        scale: Factor of the scores; by default ``D ** -0.5``.
        window: A query sees this many tokens, itself among them; None for all earlier ones.

    Returns:
        ``[B, H, L, E]``.
    """
    width = keys.shape[-1]
    parts = gather(torch.cat((keys, values), dim=-1), group)
    all_keys = in_order([part[..., :width] for part in parts], layout, dim=2)
    all_values = in_order([part[..., width:] for part in parts], layout, dim=2)
    mixed, first = [], 0
    for start, end in layout.pieces(all_keys.shape[2]):
        rows = slice(first, first + end - start)
        first = rows.stop
        low = 0 if window is None else max(0, start - window + 1)
        seen = None if mask is None else mask[:, :, rows, low:end]
        if window is not None or (seen is None and start and queries.device.type != "cuda"):
            band = _band(start, end, low, window, queries.device)
            seen = band if seen is None else seen & band
        mixed.append(_attend(queries[:, :, rows], all_keys[:, :, low:end], all_values[:, :, low:end], seen, dropout, scale))
    return torch.cat(mixed, dim=2) if len(mixed) > 1 else mixed[0]


def _band(start: int, end: int, low: int, window: int | None, device: torch.device) -> Tensor:
    """``[end - start, end - low]``: whether a query from ``start`` on may look at a key from ``low`` on."""
    back = torch.arange(start, end, device=device)[:, None] - torch.arange(low, end, device=device)
    return back >= 0 if window is None else (back >= 0) & (back < window)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, dropout: float, scale: float | None) -> Tensor:
    """Without a mask, the last query sees all keys, and each one before it one key less.

    PyTorch's fast kernels know that on CUDA; elsewhere it would make a mask itself, after importing its compiler.
    """
    is_square = queries.shape[2] == keys.shape[2]
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scale, "enable_gqa": queries.shape[1] != keys.shape[1]}
    if seen is None and not is_square:
        from torch.nn.attention.bias import causal_lower_right

        seen = causal_lower_right(queries.shape[2], keys.shape[2])
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, is_causal=seen is None, **options)


def gather(local: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """The tensors of all ranks, by rank. The gradient that a rank gets for its own is the sum of what all ranks give for it."""
    parts: tuple[Tensor, ...] = _Gather.apply(local, group)  # type: ignore[no-untyped-call]
    return parts


class _Gather(torch.autograd.Function):
    """All-gather forward, reduce-scatter backward. Half precision is summed in float32, as attention kernels do."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
        ctx.group = group
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, local, group=group)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        dtype = gradients[0].dtype
        wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        given = [gradient.to(wide).contiguous() for gradient in gradients]
        total = torch.empty_like(given[0])
        dist.reduce_scatter(total, given, group=ctx.group)
        return total.to(dtype), None
