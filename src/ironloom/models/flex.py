"""FlexAttention as the kernel of the built-in decoder: what a query sees is a function of two places, and blocks of scores in which
nobody sees anything are not computed (Dong et al. 2024, arXiv:2412.05496).

The mask of each window is made once for a forward pass, and layers share it. PyTorch's kernel is compiled on accelerators. On the CPU
it has no backward: there the same function is asked for every pair, and the mask goes to :func:`ironloom.models.attention.attend`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ironloom.errors import DataError
from ironloom.models.documents import number_documents

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

#: Devices that PyTorch has a kernel for, with gradients.
FUSED = ("cuda", "xpu", "hpu")

#: How many kinds of attention may be compiled.
_VARIANTS = 64

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query looks at a key, by row, head, place of the query, place of the key: a ``mask_mod`` of PyTorch."""


@dataclass(frozen=True)
class BlockMasks:
    """What each query of a batch sees, for each window that layers have.

    Attributes:
        masks: By window, None being that of layers without one. Boolean, ``[B or 1, 1, S, S]``, on devices without the kernel.
    """

    masks: Mapping[int | None, BlockMask | Tensor]

    def attend(
        self, attend: Callable[..., Tensor], queries: Tensor, keys: Tensor, values: Tensor, dropout: float, window: int | None
    ) -> Tensor:
        """Causal attention; arguments and result as those of ``attend``, which does it where there is no kernel.

        Raises:
            ValueError: For dropout, which the kernel does not have.
        """
        if dropout:
            raise ValueError("FlexAttention drops no weights: set dropout_attn to 0, or take another kernel")
        mask = self.masks[window]
        if isinstance(mask, Tensor):
            return attend(queries, keys, values, mask, dropout)
        heads = (queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
        mixed: Tensor = _kernel()(*heads, block_mask=mask, enable_gqa=queries.shape[2] != keys.shape[2])
        return mixed


def block_masks(windows: Collection[int | None], attention_mask: Tensor | None, position_ids: Tensor | None, ids: Tensor) -> BlockMasks:
    """What each query of a batch sees. Nothing is looked at, so no accelerator is waited for.

    Args:
        windows: How many tokens a token sees, itself among them, in some layers; None: all before it.
        attention_mask: ``[B, S]``, 0 at padding; or boolean ``[B, 1, S, S]``, which says already what each query sees.
        position_ids: ``[B, S]`` or ``[1, S]``; without a mask, another document begins where they do not go on by one.
        ids: Tokens ``[B, S]``.

    Raises:
        DataError: For a mask of four dimensions that is not boolean, or not the same for all heads.
    """
    rows, length = ids.shape
    sees: Sees = _causal
    if attention_mask is not None and attention_mask.ndim == 4:
        if attention_mask.dtype is not torch.bool or attention_mask.shape[1] != 1:
            shape = list(attention_mask.shape)
            raise DataError(f"expected an attention_mask of booleans [B, 1, S, S], found {attention_mask.dtype} {shape}")
        sees = _as_told(attention_mask[:, 0].expand(rows, -1, -1))
    elif attention_mask is not None:
        sees = _padded(attention_mask.bool().expand(rows, -1))
    elif position_ids is not None:
        sees = _within_documents(number_documents(position_ids).expand(rows, -1))
    size = None if sees is _causal else rows
    return BlockMasks({window: _made(_near(sees, window, length), size, length, ids.device) for window in windows})


def _made(sees: Sees, rows: int | None, length: int, device: torch.device) -> BlockMask | Tensor:
    from torch.nn.attention.flex_attention import create_mask

    make = _maker() if device.type in FUSED else create_mask
    made: BlockMask | Tensor = make(sees, rows, None, length, length, device=device)
    return made


def _kernel() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return kernel if torch.compiler.is_compiling() else _compiled(kernel)


def _maker() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    # Compiled, because otherwise the whole mask would be in memory.
    return create_block_mask if torch.compiler.is_compiling() else _compiled(create_block_mask)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo

    compiled = torch.compile(function)

    def limited(*args: Any, **options: Any) -> Any:
        # Each window and kind of mask, with gradients and without, is compiled, then once more for any length. Beyond PyTorch's
        # limit of 8 it would go on with all scores in memory.
        with torch._dynamo.config.patch(recompile_limit=_VARIANTS, fail_on_recompile_limit_hit=True):
            return compiled(*args, **options)

    return limited


def _causal(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def _padded(valid: Tensor) -> Sees:
    """Every place sees itself, padding too, so that no softmax is empty."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((query >= key) & valid[row, key]) | (query == key)

    return sees


def _within_documents(numbers: Tensor) -> Sees:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (numbers[row, query] == numbers[row, key])

    return sees


def _as_told(mask: Tensor) -> Sees:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask[row, query, key]

    return sees


def _near(sees: Sees, window: int | None, length: int) -> Sees:
    if window is None or window >= length:
        return sees

    def near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(row, head, query, key) & (query - key < window)

    return near
