"""The graph of a configuration object that is used in this very process: its factories stay the objects that they are.

Nothing is named by a path here, so lambdas, methods and callbacks with a memory may be given. Such a graph is built, not written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ironloom.config import code
from ironloom.config.code.given import Given
from ironloom.config.code.values import Converter
from ironloom.config.graph import Graph, Node
from ironloom.errors import Origin
from ironloom.settings.base import Settings
from ironloom.settings.dream import BaseTrainerConfig
from ironloom.settings.dream.source import Sources


class Settled:
    """The graph of a configuration, and what was given in it.

    Args:
        config: Valid by itself.

    Raises:
        ConfigError: With everything that keeps it from being run.
    """

    def __init__(self, config: BaseTrainerConfig):
        module = sys.modules.get(type(config).__module__)
        file = str(getattr(module, "__file__", type(config).__name__))
        self.given = Given(config, file, file, Sources())
        self.graph: Graph = code._graph(self.given, _Live())


class _Live(Converter):
    """Leaves every object alone, but for settings and for our callbacks, which settings complete."""

    def __init__(self) -> None:
        super().__init__(sys.modules[__name__])

    def __call__(self, value: Any, path: str, origin: Origin | None = None) -> Any:
        if isinstance(value, Settings) or _is_ours(value):
            return super().__call__(value, path, origin)
        return Node("ironloom.config.code.live:itself", args=(value,)) if path.startswith("callbacks.") else value

    def call(self, value: Any, path: str, origin: Origin | None = None) -> Node:
        """The node that calls a factory when it is built."""
        if _is_ours(value):
            return super().call(value, path, origin)
        return Node("ironloom.config.code.live:called", args=(value,))


def _is_ours(value: Any) -> bool:
    """Whether this is a callback of this package or its class."""
    return (value if isinstance(value, type) else type(value)).__module__.startswith("ironloom.callbacks.")


def itself(value: Any) -> Any:
    """What is given."""
    return value


def called(factory: Callable[[], Any]) -> Any:
    """What a factory makes."""
    return factory()
