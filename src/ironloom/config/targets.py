"""Small callables for graphs: what a configuration needs besides the classes it names."""

from __future__ import annotations

import operator
from typing import Any


def attribute(obj: Any, name: str) -> Any:
    """The attribute ``name`` of an object of the graph; ``a.b`` reaches through."""
    return operator.attrgetter(name)(obj)
