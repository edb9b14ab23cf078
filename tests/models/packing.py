"""Packed rows, the same documents alone, and how far a model is from giving both the same numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Lengths of the documents of each row of 16 tokens; the longest is longer than the windows of the models.
ROWS = ((5, 1, 10), (16,), (7, 9))
#: Places of the tokens of the first document of the first row, and of the second one of the last row.
CHANGED = ((0, slice(0, 5)), (2, slice(7, 16)))


def positions(rows: tuple[tuple[int, ...], ...] = ROWS) -> Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def packed(vocabulary: int, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(vocabulary, (len(ROWS), 16), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "position_ids": positions()}


@torch.no_grad()
def leaking_tokens(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which tokens' logits are other bits once two documents have other tokens, and which ought to be: ``[B, S]`` both."""
    other, expected = batch["input_ids"].clone(), torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for row, place in CHANGED:
        other[row, place] = (other[row, place] + 1) % 8
        expected[row, place] = True
    before = model(**batch).logits
    after = model(**{**batch, "input_ids": other}).logits
    return (before != after).any(dim=-1), expected


def apart_from_alone(model: nn.Module, alone: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Relative differences of the logits of packed documents, and of the gradients of their loss sum, to those of each alone.

    ``all`` are the gradients of all weights together. The bias of keys has none but rounding: a softmax does not see it.
    """
    ids = batch["input_ids"]
    logits = model(**batch).logits
    labels = F.pad(ids[:, 1:], (0, 1), value=-100)
    for row, lengths in enumerate(ROWS):
        labels[row, torch.tensor(lengths).cumsum(0) - 1] = -100
    _loss_sum(logits, labels).backward()
    single = []
    for row, lengths in zip(ids, ROWS, strict=True):
        for document in row[None].split(lengths, dim=1):
            single.append(alone(input_ids=document).logits)
            _loss_sum(single[-1], F.pad(document[:, 1:], (0, 1), value=-100)).backward()
    names = [name for name, parameter in model.named_parameters() if parameter.grad is not None and "k_proj.bias" not in name]
    assert len(names) > 10
    grads = [[each.get_parameter(name).grad for name in names] for each in (model, alone)]
    found = {name: distance(one, other) for name, one, other in zip(names, *grads, strict=True)}
    found["all"] = distance(*(torch.cat([grad.flatten() for grad in each]) for each in grads))
    found["logits"] = distance(logits.flatten(0, 1), torch.cat(single, dim=1)[0])
    return found


def _loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())
