"""Names of parameters without what PyTorch's wrappers put into them."""

from __future__ import annotations

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # torch.compile, activation checkpointing


def raw_name(name: str) -> str:
    """The name that a parameter has in the model as it was made."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
