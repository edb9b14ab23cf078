"""Named parameters and the groups that differ in weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn


class NamedParameters:
    """The trainable parameters of a model by name; both called and iterated.

    ``factory(named_parameters)`` may say ``AdamW(named_parameters())`` or ``AdamW(named_parameters)``.
    """

    def __init__(self, model: nn.Module):
        self._items = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        tables = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
        #: Names of the weights of embedding modules, whatever they are called.
        self.embeddings = {name for name, parameter in self._items if id(parameter) in tables}

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self._items)

    def __call__(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same as iterating."""
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    exempt: Callable[[str, torch.Tensor], bool],
) -> list[dict[str, Any]]:
    """Split into a group with weight decay and one without; empty groups are left out.

    Args:
        named_parameters: Names and parameters.
        weight_decay: Decay of the first group.
        exempt: Says of a name and a parameter that it takes no decay.
    """
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in named_parameters:
        groups[exempt(name, parameter)]["params"].append((name, parameter))
    return [group for group in groups if group["params"]]


def is_norm_or_bias(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is a vector: the scale of a norm or a bias."""
    return parameter.ndim < 2


def is_embedding(name: str) -> bool:
    """Whether a parameter is a table of token or position embeddings, by the names in common use."""
    return any(part.startswith(("embed", "wte", "wpe")) or part.endswith(("embedding", "embeddings")) for part in name.split("."))


def is_output(name: str) -> bool:
    """Whether a parameter is of the layer that makes logits, by the names in common use."""
    return any(part in ("lm_head", "embed_out", "output_layer", "head", "score", "classifier") for part in name.split("."))
