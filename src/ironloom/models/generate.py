"""Text from a model, one token at a time, without disturbing training. Knows nothing of tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ironloom.device import random_key
from ironloom.models.cache import Reader
from ironloom.models.decoder import Decoder
from ironloom.models.sampling import Sampling, draw

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Watch = Callable[[int, list[int]], bool]
"""Called after each token with the number of the text and its new tokens; true ends this text."""


@torch.no_grad()
def generate(
    model: Decoder | PreTrainedModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    eos_token_id: int | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Continue prompts of equal length; :func:`continue_prompts` takes any.

    Draws come from keys, not from generators, so the global ones stay as they were and every device draws the same; dropout
    is off meanwhile.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        input_ids: Prompts ``[B, S]`` on the model's device. What exceeds the model's length is forgotten
            from the left.
        max_new_tokens: Number of tokens to add at most.
        temperature: As in :class:`~ironloom.models.sampling.Sampling`, like the next three.
        top_k: Draw among this many likeliest tokens.
        top_p: Draw among the fewest likeliest tokens whose probabilities reach this sum.
        repetition_penalty: Makes tokens less likely that were there before.
        seed: Key of the draws; each row draws for itself.
        eos_token_id: Ends a text; the rest of its row is filled with it. None never ends.
        use_cache: Whether a token is read only once; the result is the same without.

    Returns:
        Prompts and continuations ``[B, S + n]``, ``n <= max_new_tokens``: fewer if all texts ended.

    Raises:
        ValueError: If the prompt is empty or an argument is out of its range.
    """
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"expected prompts [batch, length] of at least one token, found shape {list(input_ids.shape)}")
    written = continue_prompts(
        model,
        input_ids.tolist(),
        Sampling(temperature, top_k, top_p, repetition_penalty),
        max_new_tokens=max_new_tokens,
        seeds=[random_key("row", seed, row) for row in range(len(input_ids))],
        end=[] if eos_token_id is None else [eos_token_id],
        use_cache=use_cache,
    )
    longest = max(map(len, written))
    fill = 0 if eos_token_id is None else eos_token_id  # without an end all are as long
    rows = [row + [fill] * (longest - len(row)) for row in written]
    added = torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device).view(len(input_ids), longest)
    return torch.cat((input_ids, added), dim=1)


@torch.no_grad()
def continue_prompts(
    model: Decoder | PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    seeds: Sequence[int],
    end: Collection[int] = (),
    watch: Watch | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue prompts of any lengths, all at once. A text does not depend on those beside it.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        prompts: Token ids of each, at least one.
        sampling: How tokens are drawn.
        max_new_tokens: Number of tokens to add at most.
        seeds: Of each prompt; the same seed draws the same text.
        end: Tokens that end a text.
        watch: Sees each text grow, and may end it.
        use_cache: Whether a token is read only once; the result is the same without.

    Returns:
        The new tokens of each text, the token that ended it included.

    Raises:
        ValueError: If a prompt is empty, or arguments do not fit.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, found {max_new_tokens}")
    if not prompts or not all(prompts):
        raise ValueError("expected prompts of at least one token each")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: expected one for each")
    ids, valid = _padded(prompts, next(model.parameters()).device)
    written: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    seen: Tensor | None = None
    with evaluating(model), Reader(model, ids, valid, use_cache) as reader:
        for step in range(max_new_tokens):
            logits = reader.logits()
            if seen is None and sampling.repetition_penalty != 1.0:
                seen = _occurring(prompts, logits.shape[-1])
            draws = [draw(seed, step) for seed in seeds] if sampling.temperature else []
            tokens = sampling.choose(logits, seen, draws)
            if seen is not None:
                seen.scatter_(1, tokens[:, None], True)
            for row, token in enumerate(tokens.tolist()):
                if row not in running:
                    continue
                written[row].append(token)
                stopped = watch is not None and watch(row, written[row])  # sees the token that ends a text, too
                if stopped or token in end:
                    running.discard(row)
            if not running:
                break
            if step + 1 < max_new_tokens:
                reader.add(tokens)
    return written


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts ``[B, S]``, filled up on the left, and where they are no padding."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    valid = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        valid[row, longest - len(prompt) :] = True
    return ids.to(device), valid.to(device)


def _occurring(prompts: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Which tokens each prompt has: boolean ``[B, vocabulary]`` on the CPU."""
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
