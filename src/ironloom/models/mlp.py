"""The feed-forward block and its activations."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ironloom.models.precision import cast_once
from ironloom.settings.model import ModelConfig

_gelu_tanh = functools.partial(F.gelu, approximate="tanh")

# The gated names say what activates the gate: GeGLU the exact GELU (Shazeer 2020, arXiv:2002.05202).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "silu": F.silu,
    "relu": F.relu,
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
}


class MLP(nn.Module):
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))`` with a gated activation; ``[B, S, d_model]`` in and out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation_type]
        self.dropout = config.dropout_mlp
        bias = not config.no_bias
        self.gate_proj = nn.Linear(config.d_model, config.d_ffn, bias=bias) if config.is_gated else None
        self.up_proj = nn.Linear(config.d_model, config.d_ffn, bias=bias)
        self.down_proj = nn.Linear(config.d_ffn, config.d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, d_model]`` in and out."""
        if self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))
        else:
            x = cast_once(x)
            hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)
        out = self.down_proj(hidden)
        return F.dropout(out, self.dropout) if self.dropout and self.training else out
