"""A new decoder, as configurations name it."""

from __future__ import annotations

import torch
from torch import nn

from ironloom.errors import ConfigError, Problem
from ironloom.models.config import DecoderConfig
from ironloom.models.decoder import Decoder
from ironloom.models.init import initialize
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

    Raises:
        ConfigError: If the settings name a model that is to be loaded.
    """
    if config.name_or_path is not None:
        raise ConfigError(Problem("is for ironloom.models:load_pretrained, not for a new decoder", path="name_or_path"))
    model = allocate(DecoderConfig(config, vocab_size, padded_size(vocab_size, vocab_padding_unit), eos_token_id))
    initialize(model, seed, init_std, xavier_init)
    return model


def allocate(config: DecoderConfig) -> Decoder:
    """A decoder in float32 on the CPU whose weights and buffers are memory that nobody has written yet.

    No value is drawn that would be overwritten. The same as the meta device and ``to_empty``, which imports
    SymPy on first use and so costs more than the rest of building a small model.
    """
    with torch.device("meta"):
        model = Decoder(config.settings, config.vocab_size, config.padded_vocab_size, config.eos_token_id)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device="cpu")))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, device="cpu"))
    return model
