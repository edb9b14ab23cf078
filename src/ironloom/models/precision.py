"""What autocast does to several layers that read the same tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_once(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast would give it; ``x`` itself without autocast.

    Each linear layer under autocast casts its input for itself, and the gradient back. Where several read
    the same tensor, one cast before them is enough.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
