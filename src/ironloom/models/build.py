"""A new decoder, as configurations name it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ironloom.errors import ConfigError, Problem
from ironloom.models.config import DecoderConfig
from ironloom.models.decoder import Decoder
from ironloom.models.init import Start, initialize
from ironloom.settings.model import ModelConfig, padded_size


def build_decoder(
    config: ModelConfig,
    vocab_size: int,
    *,
    vocab_padding_unit: int = 128,
    eos_token_id: int | None = None,
    seed: int = 1337,
    init_std: float = 0.006,
    xavier_init: bool = False,
    on_meta: bool = False,
) -> Decoder:
    """Make a decoder in float32 on the CPU and initialise it.

    Args:
        config: The shape.
        vocab_size: Number of tokens of the tokenizer.
        vocab_padding_unit: The embedding gets the next multiple of this many rows.
        eos_token_id: The token that ends a text.
        seed: See :func:`ironloom.models.init.initialize`, as for the next two.
        init_std: Standard deviation.
        xavier_init: Whether linear layers take theirs from their widths instead.
        on_meta: Leave it on the meta device; its weights get memory and the same values when a trainer spreads it over
            processes, in each process those of its part (:mod:`ironloom.models.deferred`).

    Raises:
        ConfigError: If the settings name a model that is to be loaded.
    """
    if config.name_or_path is not None:
        raise ConfigError(Problem("is for ironloom.models:load_pretrained, not for a new decoder", path="name_or_path"))
    shape = DecoderConfig(config, vocab_size, padded_size(vocab_size, vocab_padding_unit), eos_token_id)
    if on_meta:
        model = allocate(shape, "meta")
        model.start = Start(shape, seed, init_std, xavier_init)
        return model
    model = allocate(shape)
    initialize(model, seed, init_std, xavier_init)
    return model


def builds_decoder(make: Callable[..., Any]) -> bool:
    """Whether a callable is :func:`build_decoder`, maybe with arguments (a ``partial``), so that it takes ``on_meta``."""
    return getattr(make, "func", make) is build_decoder


def allocate(config: DecoderConfig, device: str = "cpu") -> Decoder:
    """A decoder in float32 whose weights and buffers are memory that nobody has written yet.

    No value is drawn that would be overwritten. The same as the meta device and ``to_empty``, which imports
    SymPy on first use and so costs more than the rest of building a small model.
    """
    with torch.device("meta"):
        model = Decoder(config.settings, config.vocab_size, config.padded_vocab_size, config.eos_token_id)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, device=device))
    return model
