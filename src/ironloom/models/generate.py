"""Text from a model, one token at a time, without disturbing training. Knows nothing of tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ironloom.models.decoder import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def generate(
    model: Decoder | PreTrainedModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_token_id: int | None = None,
) -> Tensor:
    """Continue prompts of equal length.

    The whole window is computed again for each token. Draws come from a generator of their own on the CPU,
    so the global ones stay as they were and every device draws the same; dropout is off meanwhile.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        input_ids: Prompts ``[B, S]`` on the model's device. What exceeds the model's length is forgotten
            from the left.
        max_new_tokens: Number of tokens to add at most.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw among this many likeliest tokens.
        top_p: Draw among the fewest likeliest tokens whose probabilities reach this sum
            (Holtzman et al. 2019, arXiv:1904.09751).
        seed: Key of the draws.
        eos_token_id: Ends a text; the rest of its row is filled with it. None never ends.

    Returns:
        Prompts and continuations ``[B, S + n]``, ``n <= max_new_tokens``: fewer if all texts ended.

    Raises:
        ValueError: If the prompt is empty or an argument is out of its range.
    """
    _check(input_ids, max_new_tokens, temperature, top_k, top_p)
    generator = torch.Generator().manual_seed(seed)
    window = _window(model)
    ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    with _evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(input_ids=input_ids[:, -window:]).logits[:, -1].float()
            token = _choose(logits, temperature, top_k, top_p, generator)
            if eos_token_id is not None:
                token = torch.where(ended, eos_token_id, token)
                ended |= token == eos_token_id
            input_ids = torch.cat((input_ids, token[:, None]), dim=1)
            if eos_token_id is not None and bool(ended.all()):
                break
    return input_ids


def _check(input_ids: Tensor, max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"expected prompts [batch, length] of at least one token, found shape {list(input_ids.shape)}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, found {max_new_tokens}")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, found {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, found {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, found {top_p}")


def _window(model: Decoder | PreTrainedModel) -> int:
    """How many tokens the model looks back; as many as there are if it sets no limit."""
    if isinstance(model, Decoder):
        return model.config.settings.max_seq_len
    limit = getattr(model.config, "max_position_embeddings", None)  # models without positions have none
    return 2**31 if limit is None else limit


def _choose(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator) -> Tensor:
    """The next token of each row ``[B]``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    ranked, tokens = logits.cpu().sort(dim=-1, descending=True)
    if top_k is not None:
        ranked[:, top_k:] = -torch.inf
    probabilities = (ranked / temperature).softmax(dim=-1)
    if top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities[before >= top_p] = 0.0
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return tokens.gather(1, drawn)[:, 0].to(logits.device)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
