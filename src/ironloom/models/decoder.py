"""The built-in decoder-only transformer. Plain modules: no collectives, no cache, no loss.

Parameters carry the names of Hugging Face's Llama, whatever the architecture, so that parallel plans and
conversions are renames. With tied embeddings there is no ``lm_head``: the embedding itself is used, and no
copy or ``to_empty`` can part the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.attention import Attention, Mask, causal_padding_mask
from ironloom.models.config import DecoderConfig
from ironloom.models.documents import Documents, find_documents
from ironloom.models.embedding import Embedding, Positions, make_norm
from ironloom.models.flex import block_masks
from ironloom.models.mlp import MLP
from ironloom.models.rotary import Rotary
from ironloom.settings.model import ModelConfig

if TYPE_CHECKING:
    from ironloom.models.init import Start


@dataclass
class CausalLMOutput:
    """What a forward pass returns.

    Attributes:
        logits: ``[B, S, vocab_size]`` in the dtype of the arithmetic.
    """

    logits: Tensor


class PreNormLayer(nn.Module):
    """Normalise, transform, add: twice (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = make_norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None, mask: Mask) -> Tensor:
        """``[B, S, d_model]`` in and out; the rest as in :class:`~ironloom.models.attention.Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), turns, mask)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504 (typed: the calls return Any)


class PostNormLayer(nn.Module):
    """Transform, add, normalise: twice, as in the first transformer (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = MLP(config)
        self.post_feedforward_layernorm = make_norm(config)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None, mask: Mask) -> Tensor:
        """``[B, S, d_model]`` in and out; the rest as in :class:`~ironloom.models.attention.Attention`."""
        x = self.post_attention_layernorm(x + self.self_attn(x, turns, mask))
        x = self.post_feedforward_layernorm(x + self.mlp(x))
        return x  # noqa: RET504 (typed: the calls return Any)


class Backbone(nn.Module):
    """Tokens to hidden states: embeddings, layers and, after pre-norm layers, a last norm.

    A post-norm layer ends in a norm itself, so those models have no ``norm`` of their own.

    Attributes:
        separate: Finds the documents of packed rows; :func:`~ironloom.models.documents.find_documents`, or what is put in its place by
            those who know them already.
        is_flex: Whether FlexAttention is the kernel of attention.
    """

    def __init__(self, config: ModelConfig, padded_vocab_size: int):
        super().__init__()
        position = config.positional_embedding
        self.separate: Callable[..., Tensor | Documents | None] = find_documents
        self.is_flex = False
        self.dropout = config.dropout_embd
        self.windows = tuple(dict.fromkeys(map(config.window_of, range(config.num_layers))))
        self.scale = config.embedding_scale
        self.embed_tokens = Embedding(padded_vocab_size, config.d_model)
        self.embed_positions = Positions(config.max_seq_len, config.d_model) if position.type == "absolute" else None
        self.rotary = Rotary(position, config.head_dim, config.max_seq_len) if position.type == "rope" else None
        layer = PostNormLayer if config.post_ln else PreNormLayer
        self.layers = nn.ModuleList(layer(config, index) for index in range(config.num_layers))
        self.norm = None if config.post_ln else make_norm(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """Hidden states ``[B, S, d_model]``; arguments as in :meth:`Decoder.forward`."""
        length = input_ids.shape[1]
        x: Tensor = self.embed_tokens(input_ids)
        if self.scale != 1.0:
            x = x * self.scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(length, position_ids)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        turns = self.rotary(length, position_ids) if self.rotary is not None else None
        mask: Mask = None
        if self.is_flex and length > 1:  # a single token sees all that a cache holds
            mask = block_masks(self.windows, attention_mask, position_ids, input_ids)
        elif attention_mask is not None:
            mask = causal_padding_mask(attention_mask)
        elif position_ids is not None and length > 1:
            mask = self.separate(position_ids, len(input_ids), as_mask=self._is_compiled)
        for layer in self.layers:
            x = layer(x, turns, mask)
        if self.norm is not None:
            x = self.norm(x)
        return x

    @property
    def _is_compiled(self) -> bool:
        """Whether layers are compiled one by one: then they are called with tensors, not with lengths, which change each time."""
        return self.layers[0]._compiled_call_impl is not None


class Decoder(nn.Module):
    """A causal language model.

    The constructor leaves PyTorch's default initialisation; :func:`ironloom.models.build.build_decoder`
    gives the reproducible one.

    Args:
        config: The shape.
        vocab_size: Number of tokens, and of logits.
        padded_vocab_size: Rows of the embedding, at least ``vocab_size``, which is the default. The rows
            beyond have no logit, so they take no part in the softmax and receive zero gradient.
        eos_token_id: The token that ends a text, kept for those who generate; None if there is none.

    Attributes:
        config: The :class:`~ironloom.models.config.DecoderConfig` that ``config.json`` holds.
        score: Logits from hidden states and the output matrix; a plain product, or what is put in its place, say by those who
            divide the vocabulary among processes.
        start: What the weights are to be drawn from, as long as the model is on the meta device and has none; else None.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        padded_vocab_size: int | None = None,
        eos_token_id: int | None = None,
    ):
        super().__init__()
        padded = vocab_size if padded_vocab_size is None else padded_vocab_size
        self.config = DecoderConfig(config, vocab_size, padded, eos_token_id)
        self.score: Callable[[Tensor, Tensor], Tensor] = F.linear
        self.start: Start | None = None
        self.vocab_size = vocab_size
        self.padded_vocab_size = padded
        self.eos_token_id = eos_token_id
        self.model = Backbone(config, padded)
        self.lm_head = nn.Linear(config.d_model, padded, bias=False) if config.untie_embed else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> CausalLMOutput:
        """Score the next token at every position.

        Args:
            input_ids: Token ids ``[B, S]``.
            attention_mask: ``[B, S]``, 0 at padding that no token may look at. Leave it out where nothing is
                padded or only the end is: causal attention never looks there, and without a mask it is faster.
            position_ids: Positions ``[B, S]``; by default ``0 .. S - 1``. Where they start again, and there is no mask, another
                document begins, and no token sees another document than its own. Without positional embedding that is all they do.

        Raises:
            ValueError: If S exceeds ``max_seq_len`` and positions are learned.
        """
        x = self.model(input_ids, attention_mask, position_ids)
        weight = self.output_weight
        if self.padded_vocab_size != self.vocab_size:
            weight = weight[: self.vocab_size]
        return CausalLMOutput(self.score(x, weight))

    @property
    def output_weight(self) -> Tensor:
        """The matrix ``[padded_vocab_size, d_model]`` that scores tokens; the embedding itself when tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def reset_buffers(self) -> None:
        """Fill again what is computed and not saved. Call after ``to_empty``."""
        if self.model.rotary is not None:
            self.model.rotary.reset()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; see :func:`ironloom.models.files.save_pretrained`."""
        from ironloom.models.files import save_pretrained

        save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Decoder:
        """Read what :meth:`save_pretrained` wrote; see :func:`ironloom.models.files.load_decoder`."""
        from ironloom.models.files import load_decoder

        return load_decoder(folder)
