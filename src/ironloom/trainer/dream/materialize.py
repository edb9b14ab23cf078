"""Models that were made on the meta device: memory for their weights, and a look whether everything got a value.

Decoders that know what to draw their weights from may wait until they are spread; see :mod:`ironloom.models.deferred`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights, is_waiting


@torch.no_grad()
def materialize(models: Mapping[str, nn.Module], device: torch.device, may_wait: bool = False) -> None:
    """Give what is on the meta device memory and the values that its modules draw themselves; the rest is not a number yet.

    Args:
        models: By name; those that have their weights already are left alone.
        device: Where the memory is.
        may_wait: Leave decoders without weights that know what to draw them from.
    """
    for model in models.values():
        if may_wait and is_waiting(model):
            continue
        give_weights(model, device)
        for module in model.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if not any(tensor.is_meta for tensor in own):
                continue
            module.to_empty(device=device, recurse=False)
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def check_initialised(models: Mapping[str, nn.Module]) -> None:
    """Refuse weights that nobody gave a value.

    Raises:
        ConfigError: Naming the first of them.
    """
    missing = [
        f"{name}.{path}"
        for name, model in models.items()
        for path, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point() and not tensor.is_meta and bool(torch.isnan(tensor).any())
    ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing[:5])} have no values after init_weights: initialise them there, or make the model off the meta device"
        )
