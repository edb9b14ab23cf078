"""Several processes: who they are, how a model is spread over them, how they agree. Knows no loop.

Importing this imports no torch; nothing here imports ``torch.distributed`` before a second process is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.parallel.environment import DistributedEnvironment, main_process_first

__all__ = ["DistributedEnvironment", "main_process_first"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ironloom.parallel' has no attribute {name!r}")
    return getattr(importlib.import_module("ironloom.parallel.environment"), name)
