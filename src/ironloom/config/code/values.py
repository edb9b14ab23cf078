"""From Python objects to values of a graph: what a factory, a class, a callback or plain data becomes."""

from __future__ import annotations

import enum
import functools
import pathlib
import sys
import types
from dataclasses import MISSING, fields
from typing import Any

from ironloom.config import secrets
from ironloom.config.code.hidden import referring
from ironloom.config.graph import Node
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import Settings

_ADVICE = "write a class, a function at the top level of a module, or functools.partial of one"


class Converter:
    """Turns objects into values of a graph; the same object twice is the same value twice.

    Args:
        module: What the configuration file became; what it defines is named by the file.
    """

    def __init__(self, module: types.ModuleType):
        self._module = module
        self._folder = pathlib.Path(str(module.__file__)).parent
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any, path: str, origin: Origin | None = None) -> Any:
        """The value of a graph for an object.

        Args:
            value: The object.
            path: Where it stands in the configuration, for messages.
            origin: The same as a place.

        Raises:
            ConfigError: If a graph cannot hold it.
        """
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            secret = referring(value)
            return str(value) if secret is None else secrets.reference(secret, typed=False, origin=origin)
        if value is None or type(value) in (bool, int, float):
            return value
        if id(value) not in self._made or self._made[id(value)][0] is not value:
            self._made[id(value)] = (value, self._new(value, path, origin))
        return self._made[id(value)][1]

    def call(self, value: Any, path: str, origin: Origin | None = None) -> Node:
        """The node that calls a factory, rather than handing it on."""
        node = self(value, path, origin)
        if not isinstance(node, Node):
            raise _refused(value, path, origin)
        return Node(node.target, "call", node.args, node.kwargs, node.name, origin)

    def _new(self, value: Any, path: str, origin: Origin | None) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, enum.Enum):  # NumPy's numbers and the like
            return next(kind(value) for kind in (int, float) if isinstance(value, kind))
        if isinstance(value, pathlib.PurePath):
            return self(str(value), path, origin)
        if type(value) is dict:
            return {key: self(child, f"{path}.{key}", origin) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self(child, f"{path}.{index}", origin) for index, child in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, functools.partial):
            kwargs = {name: self(child, f"{path}.{name}", origin) for name, child in value.keywords.items()}
            args = tuple(self(child, f"{path}.{index}", origin) for index, child in enumerate(value.args))
            return Node(self._target(value.func, path, origin), "partial", args, kwargs, None, origin)
        if isinstance(value, Settings):
            names = [field.name for field in fields(value) if field.init and not _is_default(value, field.name)]  # type: ignore[arg-type]
            kwargs = {name: self(getattr(value, name), f"{path}.{name}", origin) for name in names}
            return Node(self._target(type(value), path, origin), "call", (), kwargs, None, origin)
        if isinstance(getattr(value, "_recorded", None), tuple):
            args, named = value._recorded
            kwargs = {name: self(child, f"{path}.{name}", origin) for name, child in named.items()}
            given = tuple(self(child, f"{path}.{index}", origin) for index, child in enumerate(args))
            return Node(self._target(type(value), path, origin), "call", given, kwargs, None, origin)
        return Node(self._target(value, path, origin), "partial", (), {}, None, origin)

    def _target(self, value: Any, path: str, origin: Origin | None) -> str:
        """How a graph names an object that a module holds."""
        owner, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
            owner, _, name = str(value).partition(".")
        if isinstance(value, enum.Enum):
            owner, name = type(value).__module__, f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, types.MethodType) and not isinstance(value.__self__, type):
            raise _refused(value, path, origin, "a method of an object")
        if not isinstance(owner, str) or not isinstance(name, str):
            raise _refused(value, path, origin)
        if "<lambda>" in name:
            raise _refused(value, path, origin, "a lambda, which has no name to be found by")
        if "<locals>" in name:
            raise _refused(value, path, origin, "defined inside a function, where it cannot be found again")
        home = sys.modules.get(owner)
        if home is None or (_reached(home, name) is not value and _reached(home, name) != value):
            raise _refused(value, path, origin, f"not what {owner}:{name} holds")
        return f"{self._home(home, name, value)}:{name}"

    def _home(self, home: types.ModuleType, name: str, value: Any) -> str:
        """The module by its public name, or the file of one that only the configuration's folder has."""
        file = getattr(home, "__file__", None)
        if home is self._module:
            return str(file)
        parts = home.__name__.split(".")
        if file and len(parts) == 1 and pathlib.Path(file).parent == self._folder:
            return str(file)
        first = 2 if parts[0] == "ironloom" else 1
        for end in range(first, len(parts)):
            outer = sys.modules.get(".".join(parts[:end]))
            if outer is not None and _reached(outer, name) is value:
                return outer.__name__
        return home.__name__


def _reached(module: types.ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _is_default(value: Any, name: str) -> bool:
    field = next(field for field in fields(value) if field.name == name)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return bool(getattr(value, name) == default)


def _refused(value: Any, path: str, origin: Origin | None, why: str = "") -> ConfigError:
    what = why or f"an object of type {type(value).__name__}, and a configuration holds no live objects"
    return ConfigError(Problem(f"{value!r:.80} cannot be written down: it is {what}", path, origin, _ADVICE))
