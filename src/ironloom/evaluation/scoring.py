"""What a model gives to the tokens of sequences, each after those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ironloom.models.decoder import Decoder
from ironloom.models.generate import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Scored(NamedTuple):
    """Of a sequence of n tokens, for each but the first.

    Attributes:
        log_probabilities: Float32 of shape (n - 1,), on the CPU.
        greedy: Whether the token is the likeliest, boolean of shape (n - 1,).
    """

    log_probabilities: Tensor
    greedy: Tensor


@torch.no_grad()
def score(model: Decoder | PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[Scored]:
    """Score sequences of any lengths, all at once.

    Args:
        model: A decoder, or a causal model of ``transformers``.
        sequences: Token ids, at least two each, and at most one more than the model reads: the last is not read.
    """
    longest = max(map(len, sequences)) - 1
    device = next(model.parameters()).device
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence) - 1] = torch.tensor(sequence[:-1])
        mask[row, : len(sequence) - 1] = 1
    ids = ids.to(device)
    # Causal attention never looks at padding behind it, and the built-in decoder is faster without a mask.
    options = {} if isinstance(model, Decoder) or bool(mask.all()) else {"attention_mask": mask.to(device)}
    with evaluating(model):
        logits = model(input_ids=ids, **options).logits
    found = []
    for row, sequence in enumerate(sequences):
        scores = logits[row, : len(sequence) - 1].float()
        targets = torch.tensor(sequence[1:], device=device)
        chosen = scores.log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
        found.append(Scored(chosen.cpu(), (scores.argmax(dim=-1) == targets).cpu()))
    return found
