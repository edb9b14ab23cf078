"""Every optimizer that a configuration can name, for tests that look at all of them."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from ironloom import optim

#: By name in the group optim, with arguments under which a small model learns fast.
OPTIMIZERS: dict[str, Any] = {
    "adamw": partial(optim.adamw, lr=0.01, weight_decay=0.1),
    "adam_l2": partial(optim.adam, lr=0.01, weight_decay=0.1),
    "sgd": partial(optim.sgd, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adafactor": partial(optim.adafactor, lr=0.05, weight_decay=0.1),
    "lion": partial(optim.lion, lr=0.003, weight_decay=0.1),
    "muon": partial(optim.muon, lr=0.01, weight_decay=0.1),
    "adamw_8bit": partial(optim.adamw_8bit, lr=0.01, weight_decay=0.1),
}
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
HERE = [name for name in OPTIMIZERS if name != "adamw_8bit" or HAS_BITSANDBYTES]
#: Those that can update weights of which each process has a part.
SPREAD = [name for name in OPTIMIZERS if name != "adamw_8bit"]


class Net(nn.Module):
    """An embedding, matrices, a vector of norms, biases, and an output layer; the names are those in common use or none of them."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.lexicon = nn.Embedding(5, width)
        self.up = nn.Linear(width, width + 3)
        self.norm = nn.LayerNorm(width + 3)
        self.down = nn.Linear(width + 3, width, bias=False)
        self.lm_head = nn.Linear(width, 5, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.lexicon(ids)
        return self.lm_head(hidden + self.down(torch.tanh(self.norm(self.up(hidden)))))


def net(seed: int = 0, width: int = 6) -> Net:
    """Weights that depend on the seed only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)


def give_gradients(model: nn.Module, step: int) -> float:
    """Gradients that depend on the step only, the same for equal models; the loss."""
    model.zero_grad()
    ids = (torch.arange(12).reshape(2, 6) * (step + 2)) % 5
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.roll(1, 1).flatten())
    loss.backward()
    return loss.item()
