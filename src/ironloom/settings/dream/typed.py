"""The check of a value against the annotation of any class, also where not every annotation can be resolved."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import sys
import typing
from typing import Any

from pydantic import ConfigDict, InstanceOf, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, _choices, _expectation, _shown, nearest

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotation of each field of ``cls`` and its bases; ``Any`` for one that names what is not there at run time."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        hints = {name: hint for base in reversed(cls.__mro__) for name, hint in _each_alone(base).items()}
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar and hint is not typing.ClassVar}


def _each_alone(cls: type) -> dict[str, Any]:
    """The annotations that stand in one class, each resolved by itself."""
    names = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    found = {}
    for name, hint in inspect.get_annotations(cls).items():
        try:
            found[name] = eval(hint, names, dict(vars(cls))) if isinstance(hint, str) else hint
        except (NameError, AttributeError, TypeError, SyntaxError):
            found[name] = Any
    return found


@functools.cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any] | None:
    """The check of one field; None where its annotation cannot be checked."""
    hint = field_types(cls)[name]
    if isinstance(hint, dataclasses.InitVar):
        return None
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hint = InstanceOf[hint]  # type: ignore[valid-type, misc]
    for config in (_STRICT, None):  # some classes take no settings from outside
        with contextlib.suppress(PydanticSchemaGenerationError, PydanticUserError, NameError, TypeError):
            return TypeAdapter(hint, config=config)
    return None


def checked(cls: type, name: str, value: Any, is_text: bool = False) -> tuple[Any, Problem | None]:
    """The value as the field ``name`` of ``cls`` keeps it, and what is wrong with it.

    Args:
        cls: The class.
        name: One of its annotated names.
        value: What is to be set.
        is_text: Whether the value was read from text, where a path is a text and a tuple a list.
    """
    adapter, hint = _adapter(cls, name), field_types(cls)[name]
    if adapter is None:
        return value, None
    if isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, dict):
        try:  # settings inside settings may be written as a mapping
            return hint(**value), None
        except ConfigError as error:
            first = error.problems[0]
            return value, dataclasses.replace(first, path=f"{name}.{first.path}")
    try:
        return adapter.validate_python(value), None
    except ValidationError as error:
        if is_text and not isinstance(value, dict):
            with contextlib.suppress(ValidationError, TypeError, ValueError):
                return adapter.validate_json(json.dumps(value)), None
        near = nearest(value, _choices(field_types(cls)[name])) if isinstance(value, str) else None
        hint = f"did you mean {near!r}?" if near else ""
        return value, Problem(f"expected {_expectation(error)}, found {_shown(value)}", name, hint=hint)
