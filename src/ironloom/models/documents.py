"""Documents that share a row: where each begins is seen from its positions, and no token of it sees another one.

Positions that start again, and no ``attention_mask``, say that a row is packed. That is the convention of ``transformers`` too, so the
same batch is right for its models. Boundaries are never guessed from tokens.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Rows up to this length get a mask on the CPU too: there the many small calls for the documents cost more than the products that they
#: save. Measured: with twenty tokens a document 1.6 to 4.6 times as long at 32 to 256 tokens a row, half as long at 1024.
SHORT_ROW = 256


@dataclass(frozen=True)
class Documents:
    """The documents of a batch, to be attended one by one: work is the sum of their squared lengths, and there is no mask.

    Attributes:
        lengths: Tokens of each document, row after row; together all tokens of the batch.
    """

    lengths: tuple[int, ...]

    def attend(
        self, attend: Callable[..., Tensor], queries: Tensor, keys: Tensor, values: Tensor, dropout: float, window: int | None
    ) -> Tensor:
        """What ``attend`` gives for each document alone, put together; arguments and result as there, without a mask."""
        batch, length = queries.shape[:2]
        # Split, not sliced: then the gradient is put together once, instead of once for each document.
        parts = (torch.split(heads.flatten(0, 1), list(self.lengths)) for heads in (queries, keys, values))
        mixed = [attend(*(part[None] for part in document), None, dropout, window)[0] for document in zip(*parts, strict=True)]
        together = torch.cat([heads.transpose(0, 1) for heads in mixed])
        return together.view(batch, length, *together.shape[1:]).transpose(1, 2)


def find_documents(position_ids: Tensor, rows: int, as_mask: bool = False) -> Documents | Tensor | None:
    """What separates the documents of a batch that has no mask.

    Args:
        position_ids: ``[B, S]`` or ``[1, S]``; a document begins where they do not go on by one.
        rows: Samples B.
        as_mask: Give a mask in any case; else this is done where looking at the numbers would make an accelerator wait,
            or a compiler begin anew for each batch.

    Returns:
        None if each row is one document; the documents; or a boolean mask ``[B, 1, S, S]``, True where a query may look: where nothing
        is looked at, and for short rows.
    """
    position_ids = position_ids.expand(rows, -1)
    plain = type(position_ids) is Tensor and position_ids.device.type == "cpu"  # no other one has numbers at hand
    if as_mask or not plain or torch.compiler.is_compiling():
        return _mask(position_ids)
    begins = torch.ones_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids.diff() != 1
    starts = begins.flatten().nonzero()[:, 0]
    if len(starts) == rows:
        return None
    if begins.shape[1] <= SHORT_ROW:
        return _mask(position_ids)
    lengths: list[int] = starts.diff(append=starts.new_tensor([begins.numel()])).tolist()
    return Documents(tuple(lengths))


def _mask(position_ids: Tensor) -> Tensor:
    """Where a query may look, of positions ``[B, S]``: boolean ``[B, 1, S, S]``; nothing is looked at to make it."""
    numbers = number_documents(position_ids)
    return (numbers[:, None, :, None] == numbers[:, None, None, :]).tril()


def number_documents(position_ids: Tensor) -> Tensor:
    """The number of the document of each token in its row, from 0: ``[B, S]`` like the positions."""
    return (position_ids.diff(prepend=position_ids[:, :1] - 1) != 1).cumsum(dim=-1)


def heed_positions(model: nn.Module) -> None:
    """Have models of ``transformers`` look for documents in positions, whatever their configuration says of a cache.

    With a cache they do not: positions may then be those of a text that goes on. A batch with positions and without mask gets no cache,
    unless the caller asks for one.
    """
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:  # then this is none of its models, and a second of importing is saved
        return
    for module in model.modules():
        # Inner ones too: adapters call some without their hooks.
        takes_cache = isinstance(module, library.PreTrainedModel) and "use_cache" in inspect.signature(module.forward).parameters
        if takes_cache and _without_cache not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_without_cache, with_kwargs=True)


def _without_cache(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    is_free = all(kwargs.get(name) is None for name in ("attention_mask", "past_key_values", "use_cache"))
    return (args, kwargs | {"use_cache": False}) if is_free and kwargs.get("position_ids") is not None else None
