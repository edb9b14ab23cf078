"""Decoders whose weights are still to come: on the meta device, with what each weight is drawn from by its name.

Such a model can be split, sharded and cut into stages while it has no memory. Then every process gives memory to what it has kept,
draws one weight after the other whole, copies its part and drops the rest. Nothing is sent: values follow from seed and name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ironloom.errors import ConfigError
from ironloom.models.config import DecoderConfig
from ironloom.models.decoder import Decoder
from ironloom.models.init import Start
from ironloom.weights.names import raw_name
from ironloom.weights.sharded import copy_part, local_part


def start_of(model: nn.Module) -> Start | None:
    """What the weights of a model are to be drawn from; None for a model that has them.

    Raises:
        ConfigError: If somebody has written into weights that have no memory.
    """
    if not isinstance(model, Decoder) or model.start is None:
        return None
    waiting = {name: parameter for name, parameter in model.named_parameters() if local_part(parameter).is_meta}
    written = next((name for name, parameter in waiting.items() if local_part(parameter) is parameter and parameter._version), None)
    if written is not None:
        raise ConfigError(
            f"{written} was written to before it had any memory, which has no effect: with several processes a decoder of "
            "model_init gets its weights when training begins; give a model of your own instead (model=build_decoder(...))"
        )
    return model.start if waiting else None


def is_waiting(model: nn.Module) -> bool:
    """Whether none of a model's weights has memory, and all can be drawn."""
    return start_of(model) is not None and all(local_part(parameter).is_meta for parameter in model.parameters())


@torch.no_grad()
def give_weights(model: nn.Module, device: torch.device, home: torch.device | None = None) -> None:
    """Give the weights that a process holds memory and their starting values, in place; a model that has its weights is left alone.

    Beside these weights there is one whole weight at a time, on the CPU.

    Args:
        model: A decoder, whole or spread in any way that leaves names and makes parts DTensors; or a module with such decoders in it.
        device: Where buffers go, and weights.
        home: Where weights go instead.
    """
    for part in model.modules():
        if isinstance(part, Decoder) and (start := start_of(part)) is not None:
            _give(part, start, device, home or device)


def _give(model: Decoder, start: Start, device: torch.device, home: torch.device) -> None:
    waiting = {name for name, parameter in model.named_parameters() if local_part(parameter).is_meta}

    def placed(tensor: Tensor) -> Tensor:
        there = home if isinstance(tensor, nn.Parameter) else device
        if not local_part(tensor).is_meta:
            return tensor.to(there)
        if local_part(tensor) is tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=there)  # empty_like would import SymPy
        return torch.empty_like(tensor, device=there)

    model._apply(placed)  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name in waiting and local_part(parameter).numel():
            copy_part(parameter, start.value(raw_name(name), tuple(parameter.shape)))
    model.reset_buffers()
    model.start = None


def narrow(config: DecoderConfig) -> DecoderConfig:
    """The decoder with the same modules and the same ways between them, and as few numbers as possible in each."""
    settings = config.settings
    groups = None if settings.num_attention_groups is None else 1
    sizes: dict[str, Any] = {"d_model": 8, "d_ffn": 8, "head_dim": 4, "num_attention_heads": 2, "num_attention_groups": groups}
    return replace(config, settings=replace(settings, **sizes))
