"""Small callables for graphs: what a configuration needs besides the classes it names."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import Any

from ironloom.config import scalars, secrets


def attribute(obj: Any, name: str) -> Any:
    """The attribute ``name`` of an object of the graph; ``a.b`` reaches through."""
    return operator.attrgetter(name)(obj)


def environment(text: str, typed: bool = True) -> Any:
    """A text with its references to environment variables replaced, now; ``typed``: read as a YAML scalar.

    Raises:
        ConfigError: If a variable is missing.
    """
    value = secrets.substitute(text, os.environ)
    return scalars.plain(value) if typed else value


def items(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The pairs of a mapping."""
    return list(mapping.items())


def keys(mapping: Mapping[Any, Any]) -> list[Any]:
    """The keys of a mapping."""
    return list(mapping)


def values(mapping: Mapping[Any, Any]) -> list[Any]:
    """The values of a mapping."""
    return list(mapping.values())


def named_list(*parts: Any) -> list[Any]:
    """A list of the arguments."""
    return list(parts)


def named_tuple(*parts: Any) -> tuple[Any, ...]:
    """A tuple of the arguments."""
    return parts
