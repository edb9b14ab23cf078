"""Optimizers that configurations name. Each takes named parameters first."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ironloom.optim.adamw import AdamW
from ironloom.optim.parameters import decay_groups, is_embedding, is_norm_or_bias


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float = 5e-4,
    betas: Iterable[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    no_decay_on_embedding: bool = True,
) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019) in PyTorch's fused kernel.

    Norms and biases take no weight decay, nor do embeddings when ``no_decay_on_embedding``.
    """
    beta1, beta2 = betas

    def exempt(name: str, parameter: torch.Tensor) -> bool:
        return is_norm_or_bias(name, parameter) or (no_decay_on_embedding and is_embedding(name))

    groups = decay_groups(named_parameters, weight_decay, exempt)
    return AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
