"""Activations that are computed again in the backward pass instead of being kept (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

import functools
import sys
from typing import Any, Literal

import torch
from torch import nn

from ironloom.errors import ConfigError
from ironloom.models.plan import blocks_of

Strategy = Literal["full", "selective"]


def recompute_blocks(model: nn.Module, strategy: Strategy = "full") -> None:
    """Keep only the inputs of each block of a model; the rest is computed again. The numbers do not change.

    Args:
        model: Not sharded yet. Its blocks are changed in place, their names are not.
        strategy: ``full`` keeps nothing inside a block, ``selective`` the results of matrix products and attention,
            which take longest to compute again.

    Raises:
        ConfigError: If the model has no repeated blocks.
    """
    from torch.utils.checkpoint import checkpoint

    blocks = blocks_of(model)
    if not blocks:
        raise ConfigError(f"{type(model).__name__} has no list of like blocks whose activations could be recomputed: leave the setting out")
    options: dict[str, Any] = {"use_reentrant": False}
    if strategy == "selective":
        options["context_fn"] = _keep_products
    for block in blocks.values():
        if "forward" not in vars(block):  # it is there if the model was prepared before
            block.forward = functools.partial(_forward, block, type(block).forward, checkpoint, options)


def _forward(block: nn.Module, forward: Any, checkpoint: Any, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    # A cache would be filled twice, and keep what is to be dropped. In training nobody reads it.
    args = tuple(None if _is_cache(value) else value for value in args)
    kwargs = {name: None if _is_cache(value) else value for name, value in kwargs.items()}
    return checkpoint(forward, block, *args, **options, **kwargs)


def _is_cache(value: Any) -> bool:
    """Whether this is where a model of ``transformers`` keeps keys and values of earlier tokens."""
    library = sys.modules.get("transformers")
    return library is not None and isinstance(value, library.Cache)


def _keep_products() -> Any:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    operations = torch.ops.aten
    kept = {
        operations.mm.default,
        operations.addmm.default,
        operations.bmm.default,
        operations._scaled_dot_product_flash_attention_for_cpu.default,
        operations._scaled_dot_product_flash_attention.default,
        operations._scaled_dot_product_efficient_attention.default,
        operations._scaled_dot_product_cudnn_attention.default,
    }

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]
