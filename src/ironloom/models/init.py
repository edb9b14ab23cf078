"""The values a decoder starts from: a function of the seed and of each parameter's name, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ironloom.device import random_key
from ironloom.models.config import DecoderConfig
from ironloom.models.decoder import Decoder

RESIDUAL_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
EMBEDDINGS = ("model.embed_tokens.weight", "model.embed_positions.weight")


@dataclass(frozen=True)
class Start:
    """What the starting values of a decoder are drawn from.

    Attributes:
        config: Of the decoder.
        seed: Together with a parameter's name the key of its values.
        std: Standard deviation.
        xavier: Whether linear layers take theirs from their widths instead.
    """

    config: DecoderConfig
    seed: int
    std: float
    xavier: bool = False

    def value(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The values of one parameter, whole, in float32 on the CPU.

        Args:
            name: Its name in the decoder.
            shape: ``[out, in]`` of a matrix, ``[width]`` of a norm or a bias.
        """
        values = torch.empty(shape, dtype=torch.float32, device="cpu")
        if len(shape) == 1:
            return values.fill_(0.0 if name.endswith("bias") else 1.0)
        is_vocabulary = name in ("model.embed_tokens.weight", "lm_head.weight")
        rows, std = self.config.vocab_size if is_vocabulary else shape[0], self.std
        if self.xavier and name not in EMBEDDINGS:
            std = math.sqrt(2.0 / (rows + shape[1]))
        if name.endswith(RESIDUAL_OUTPUTS):
            std /= math.sqrt(2 * self.config.settings.num_layers)
        generator = torch.Generator().manual_seed(random_key("init", self.seed, name))
        values[:rows].normal_(0.0, std, generator=generator)
        values[rows:].zero_()
        return values


@torch.no_grad()
def initialize(model: Decoder, seed: int, std: float, xavier: bool = False) -> None:
    """Give every parameter its starting value, in place, and fill the buffers.

    Matrices are drawn from a normal distribution with deviation ``std``. The outputs of the residual branches
    are smaller by ``sqrt(2 * num_layers)``, so that the sum of all branches keeps its size (Radford et al.
    2019, GPT-2, section 2.3). Biases are zero, norms are one, padded vocabulary rows are zero.

    Numbers come from the CPU, one generator per parameter, and padding is drawn for nobody: neither the order
    of construction, nor the device, nor the padded size changes a weight.

    Args:
        model: Materialised on a real device.
        seed: Together with a parameter's name the key of its values.
        std: Standard deviation.
        xavier: Linear layers take ``sqrt(2 / (fan_in + fan_out))`` for ``std`` (Glorot and Bengio 2010);
            embeddings keep ``std``.

    Raises:
        ValueError: If a parameter is still on the meta device.
    """
    start = Start(model.config, seed, std, xavier)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device: call to_empty(device=...) before initialize")
        parameter.copy_(start.value(name, tuple(parameter.shape)))
    model.reset_buffers()
