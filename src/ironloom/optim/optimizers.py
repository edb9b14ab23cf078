"""Optimizers that configurations name. Each takes named parameters first.

Norms and biases take no weight decay, nor do embeddings when ``no_decay_on_embedding``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ironloom.errors import ConfigError
from ironloom.optim.adafactor import Adafactor
from ironloom.optim.adamw import Adam, AdamW
from ironloom.optim.lion import Lion
from ironloom.optim.low_bit import adamw_8bit_class
from ironloom.optim.muon import Muon
from ironloom.optim.parameters import NamedParameters, decay_groups, is_embedding, is_norm_or_bias, is_output
from ironloom.optim.sgd import SGD
from ironloom.weights.sharded import is_sharded

Named = Iterable[tuple[str, nn.Parameter]]


def adamw(
    named_parameters: Named,
    lr: float = 5e-4,
    betas: Iterable[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    no_decay_on_embedding: bool = True,
) -> AdamW:
    """AdamW (Loshchilov and Hutter, 2019) in PyTorch's fused kernel: weight decay apart from the gradient."""
    groups = _groups(named_parameters, weight_decay, no_decay_on_embedding)
    return AdamW(groups, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay)


def adam(
    named_parameters: Named,
    lr: float = 5e-4,
    betas: Iterable[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_decay_on_embedding: bool = True,
) -> Adam:
    """Adam (Kingma and Ba, 2015) in PyTorch's fused kernel: weight decay is an L2 term, part of the gradient."""
    groups = _groups(named_parameters, weight_decay, no_decay_on_embedding)
    return Adam(groups, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay)


def adamw_8bit(
    named_parameters: Named,
    lr: float = 5e-4,
    betas: Iterable[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    no_decay_on_embedding: bool = True,
) -> Optimizer:
    """AdamW with moments of eight bits, scaled by blocks; those of tensors below 4,096 numbers are whole.

    Raises:
        ConfigError: If bitsandbytes is not installed, or weights are spread over processes in parts.
    """
    groups = _groups(named_parameters, weight_decay, no_decay_on_embedding)
    if any(is_sharded(parameter) for group in groups for _, parameter in group["params"]):
        raise ConfigError("adamw_8bit scales blocks of whole tensors, of which each process has a part here: choose adamw, or no sharding")
    options: dict[str, Any] = {"lr": lr, "betas": _pair(betas), "eps": eps, "weight_decay": weight_decay}
    return adamw_8bit_class()(groups, **options)


def sgd(
    named_parameters: Named,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    no_decay_on_embedding: bool = True,
) -> SGD:
    """Stochastic gradient descent with momentum (Polyak, 1964), PyTorch's form; weight decay is part of the gradient."""
    return SGD(_groups(named_parameters, weight_decay, no_decay_on_embedding), lr=lr, momentum=momentum, weight_decay=weight_decay)


def adafactor(
    named_parameters: Named,
    lr: float = 0.01,
    weight_decay: float = 0.0,
    no_decay_on_embedding: bool = True,
) -> Adafactor:
    """Adafactor (Shazeer and Stern 2018), PyTorch's form.

    A step is relative to the size of the weights: the root mean square of a tensor times the least of ``lr`` and ``1 / sqrt(step)``.
    """
    return Adafactor(_groups(named_parameters, weight_decay, no_decay_on_embedding), lr=lr, weight_decay=weight_decay)


def lion(
    named_parameters: Named,
    lr: float = 1e-4,
    betas: Iterable[float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    no_decay_on_embedding: bool = True,
) -> Lion:
    """Lion (Chen et al. 2023): the sign of a momentum; weight decay apart from the gradient."""
    return Lion(_groups(named_parameters, weight_decay, no_decay_on_embedding), lr=lr, betas=betas, weight_decay=weight_decay)


def muon(
    named_parameters: Named,
    lr: float = 5e-4,
    momentum: float = 0.95,
    betas: Iterable[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    no_decay_on_embedding: bool = True,
) -> Muon:
    """Muon (Jordan et al. 2024) for the matrices within the model; AdamW for embeddings, the output layer, norms and biases."""
    named, tables = _with_tables(named_parameters)
    inner = [pair for pair in named if pair[1].ndim == 2 and pair[0] not in tables and not is_output(pair[0])]
    names = {name for name, _ in inner}
    others = decay_groups(
        [pair for pair in named if pair[0] not in names],
        weight_decay,
        lambda name, parameter: is_norm_or_bias(name, parameter) or (no_decay_on_embedding and name in tables),
    )
    matrices = [{"params": inner}] if inner else []
    return Muon(matrices, others, lr=lr, momentum=momentum, betas=_pair(betas), eps=eps, weight_decay=weight_decay)


def _groups(named_parameters: Named, weight_decay: float, no_decay_on_embedding: bool) -> list[dict[str, Any]]:
    named, tables = _with_tables(named_parameters)
    exempt = tables if no_decay_on_embedding else set()
    return decay_groups(named, weight_decay, lambda name, parameter: is_norm_or_bias(name, parameter) or name in exempt)


def _with_tables(named_parameters: Named) -> tuple[list[tuple[str, nn.Parameter]], set[str]]:
    """The pairs in their order, and the names of the embeddings among them."""
    known = named_parameters.embeddings if isinstance(named_parameters, NamedParameters) else set()
    named = list(named_parameters)
    return named, known | {name for name, _ in named if is_embedding(name)}


def _pair(betas: Iterable[float]) -> tuple[float, float]:
    beta1, beta2 = betas
    return beta1, beta2
