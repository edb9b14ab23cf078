"""Which kernel attends in the built-in decoder: what ``attention_kernel: flex`` needs, before anything is computed."""

from __future__ import annotations

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.attention import Attention
from ironloom.models.decoder import Backbone
from ironloom.models.flex import FUSED

#: Heads that are narrower have no kernel on accelerators.
_LEAST = 16


def use_flex(model: nn.Module, is_wanted: bool, device: torch.device) -> None:
    """Let the decoders of a model attend by FlexAttention, or no longer.

    Raises:
        ConfigError: If this model on this device cannot.
    """
    decoders = [module for module in model.modules() if isinstance(module, Backbone)]
    if is_wanted:
        _check(model, bool(decoders), device)
    for decoder in decoders:
        decoder.is_flex = is_wanted


def check_flex_training(model: nn.Module) -> None:
    """Refuse to train with what FlexAttention does not have.

    Raises:
        ConfigError: For dropout of attention weights.
    """
    dropout = max((module.dropout for module in model.modules() if isinstance(module, Attention)), default=0.0)
    if dropout:
        raise ConfigError(
            f"attention_kernel flex drops no attention weights, but the model's dropout_attn is {dropout:g}: set dropout_attn to 0, "
            "or attention_kernel to auto"
        )


def _check(model: nn.Module, is_ours: bool, device: torch.device) -> None:
    if not is_ours:
        raise ConfigError(
            f"attention_kernel flex is a kernel of the built-in decoder, not of {type(model).__name__}: set it to auto; a model of "
            "transformers is loaded with attn_implementation: flex_attention instead"
        )
    if device.type not in ("cpu", *FUSED):
        raise ConfigError(f"attention_kernel flex has no gradient on {device.type} in this PyTorch: set it to auto")
    narrow = [module.head_dim for module in model.modules() if isinstance(module, Attention) and module.head_dim < _LEAST]
    if narrow and device.type != "cpu":
        raise ConfigError(
            f"attention_kernel flex needs a head_dim of at least {_LEAST} on {device.type}, found {narrow[0]}: set it to auto"
        )
