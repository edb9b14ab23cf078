"""AdamW whose moments are kept in eight bits, from the optional package bitsandbytes."""

from __future__ import annotations

import functools
from typing import Any

from torch.optim import Optimizer

from ironloom.errors import ConfigError


@functools.cache
def adamw_8bit_class() -> type[Optimizer]:
    """``bitsandbytes.optim.AdamW8bit`` (Dettmers et al. 2022, arXiv:2110.02861) whose state is a plain tree of tensors.

    Raises:
        ConfigError: If the package is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            'adamw_8bit needs the package bitsandbytes, which is not installed (pip install "ironloom[bitsandbytes]")'
        ) from error

    class AdamW8bit(bitsandbytes.optim.AdamW8bit):  # type: ignore[misc]
        """Without the wrapping that hides the state from another kind of FSDP than ours."""

        def state_dict(self) -> dict[str, Any]:
            """State by number of the parameter, as in every PyTorch optimizer."""
            saved: dict[str, Any] = super().state_dict()
            for state in saved["state"].values():
                state.update(state.pop(self._FSDP_WRAPPED_QUANT_STATE_KEY, {}))
            return saved

    return AdamW8bit
