"""What a model has read: the text so far, and for the built-in decoder keys and values of each layer, so that a token is read once.

The decoder itself knows of no cache: while one is in use, the function by which each layer mixes values
(:attr:`~ironloom.models.attention.Attention.attend`) is replaced by one that adds the keys and values before it. A model of
``transformers`` keeps its own.
"""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.attention import Attention, attend
from ironloom.models.decoder import Decoder
from ironloom.weights.sharded import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens by which the memory of a layer grows at least.
_GROWTH = 64


class Reader:
    """Reads texts that grow by a token at a time, and scores what may come next. A context: the model is as before afterwards.

    What exceeds the model's length is forgotten from the left. Positions move then, so from there on the whole window is read
    again for each token, as it is where nothing can be cached (layers that are compiled or shared by processes).

    Args:
        model: A decoder, or a causal model of ``transformers``; in evaluation mode.
        ids: Texts ``[B, S]`` on the model's device, padded on the left with any token.
        valid: Boolean ``[B, S]``, False at padding; None if there is none.
        use_cache: Whether to remember; without, the whole text is read for each token.
    """

    def __init__(self, model: Decoder | PreTrainedModel, ids: Tensor, valid: Tensor | None, use_cache: bool = True):
        self._model: Any = model
        self._ids, self._valid = ids, None if valid is None or bool(valid.all()) else valid
        self._limit = lookback(model)
        self._layers = {module: _Layer() for module in model.modules() if isinstance(module, Attention)}
        self._past: Any = None  # of a model of transformers
        self._read = 0  # columns that the cache holds
        self._is_ours = isinstance(model, Decoder)
        known = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in known
        self._remembers = use_cache and _may_remember(model) and (self._is_ours or "past_key_values" in known)

    def __enter__(self) -> Reader:
        if self._is_ours and self._remembers:
            for module, layer in self._layers.items():
                module.attend = layer
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._forget()

    def add(self, tokens: Tensor) -> None:
        """One more token for each text, ``[B]``."""
        self._ids = torch.cat((self._ids, tokens.to(self._ids.device)[:, None]), dim=1)
        if self._valid is not None:
            self._valid = F.pad(self._valid, (0, 1), value=True)

    def logits(self) -> Tensor:
        """Scores of the next token, ``[B, V]``."""
        width = self._ids.shape[1]
        if self._remembers and width > self._limit:
            self._forget()
        start = self._read if self._remembers else max(0, width - self._limit)
        words = self._ids[:, start:]
        options = self._padded(start) if self._valid is not None else {}
        if self._is_ours:
            options = self._for_ours(options, start, width)
        else:
            options = self._for_theirs(options, start, width)
        output = self._model(input_ids=words, **options)
        if self._remembers:
            self._read = width
            if not self._is_ours:
                self._past = getattr(output, "past_key_values", None)  # a model with another kind of memory has none
                if self._past is None:
                    self._forget()
        scored: Tensor = output.logits[:, -1]
        return scored

    def _padded(self, start: int) -> dict[str, Tensor]:
        """Mask and positions of texts with padding; positions count from a text's first token in sight."""
        assert self._valid is not None
        visible = self._valid if self._remembers else self._valid[:, start:]
        positions = (visible.cumsum(dim=1) - 1).clamp(min=0)
        return {"attention_mask": visible, "position_ids": positions[:, start - self._ids.shape[1] :]}

    def _for_ours(self, options: dict[str, Tensor], start: int, width: int) -> dict[str, Any]:
        if not self._remembers or start == 0:
            return options
        if not options:
            return {"position_ids": torch.full((len(self._ids), 1), width - 1, device=self._ids.device)}
        # The one query of each text sees all that is no padding.
        return options | {"attention_mask": options["attention_mask"][:, None, None, :]}

    def _for_theirs(self, options: dict[str, Tensor], start: int, width: int) -> dict[str, Any]:
        mask = options["attention_mask"].long() if options else None
        options = {"position_ids": options["position_ids"]} if options and self._takes_positions else {}
        if mask is not None:
            options["attention_mask"] = mask
        if not self._remembers:
            return options
        if self._past is None:
            return options | {"use_cache": True}
        if mask is None:
            options["attention_mask"] = torch.ones(len(self._ids), width, dtype=torch.long, device=self._ids.device)
        return options | {"use_cache": True, "past_key_values": self._past}

    def _forget(self) -> None:
        """Read everything anew from now on; the layers are the model's own again."""
        if self._is_ours and self._remembers:
            for module in self._layers:
                module.attend = attend
        self._layers.clear()
        self._past, self._remembers = None, False


class _Layer:
    """In the place of :func:`ironloom.models.attention.attend`: the same over all keys and values that came so far.

    Either the first call or a call with one query; then the mask is ``[B, 1, 1, T]`` over all tokens.
    """

    def __init__(self) -> None:
        self._keys = self._values = torch.empty(0)
        self._length = 0

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, window: int | None = None
    ) -> Tensor:
        first = self._length == 0
        self._keys = self._put(self._keys, keys)
        self._values = self._put(self._values, values)
        self._length += keys.shape[1]
        if first:
            return attend(queries, keys, values, mask, dropout, window)
        begin = max(0, self._length - window) if window is not None else 0
        seen = slice(begin, self._length)
        return F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            self._keys[:, seen].transpose(1, 2),
            self._values[:, seen].transpose(1, 2),
            attn_mask=None if mask is None else mask[..., seen],
            enable_gqa=queries.shape[2] != keys.shape[2],
        )

    def _put(self, memory: Tensor, new: Tensor) -> Tensor:
        """``memory`` with ``new`` after what it holds; it grows by half, so that little is copied."""
        needed = self._length + new.shape[1]
        if self._length == 0:
            memory = new.new_empty(new.shape[0], needed + _GROWTH, *new.shape[2:])
        elif needed > memory.shape[1]:
            larger = new.new_empty(new.shape[0], needed + max(_GROWTH, needed // 2), *new.shape[2:])
            larger[:, : self._length] = memory[:, : self._length]
            memory = larger
        memory[:, self._length : needed] = new
        return memory


def lookback(model: Decoder | PreTrainedModel) -> int:
    """How many tokens the model looks back; as many as there are if it sets no limit."""
    if isinstance(model, Decoder):
        return model.config.settings.max_seq_len
    limit = getattr(model.config, "max_position_embeddings", None)  # models without positions have none
    return 2**31 if limit is None else limit


def _may_remember(model: nn.Module) -> bool:
    """Whether one token at a time may go through the model.

    Compiled layers would be compiled for each text; what processes share was never compared for single tokens.
    """
    modules = list(model.modules())
    own = all(module.attend is attend for module in modules if isinstance(module, Attention))
    compiled = any(module._compiled_call_impl is not None for module in modules)
    return own and not compiled and not any(is_sharded(parameter) for parameter in model.parameters())
