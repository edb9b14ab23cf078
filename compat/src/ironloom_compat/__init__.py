"""Modules that stand for modules of Ironloom.

Which one stands for which is said by ``ironloom.config.aliases`` alone. A module forwards name by name, when a name
is asked for, so that importing one costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ironloom.config import aliases
from ironloom.settings.base import nearest


class Forwarding(MetaPathFinder, Loader):
    """Finds and makes the modules below the packages that were given to :func:`forward`."""

    def __init__(self) -> None:
        self.packages: set[str] = set()

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The place of a module; raises for one that stands for nothing, because nobody else will find it."""
        if fullname.partition(".")[0] not in self.packages:
            return None
        if _home(fullname) is None:
            parent, _, name = fullname.rpartition(".")
            # Without its name= attribute, or an import from the parent would call it a missing name and lose the hint.
            raise ModuleNotFoundError(f"there is no {name!r} in {parent}{_hint(parent, name)}")
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Let it forward."""
        _forward_from(module)


_FINDER = Forwarding()


def forward(package: str) -> None:
    """Make an imported package, and every module below it, stand for those of Ironloom."""
    _FINDER.packages.add(package)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _forward_from(sys.modules[package])


def _forward_from(module: ModuleType) -> None:
    home = _home(module.__name__)

    def getattribute(name: str) -> Any:
        # Of the module's own names only __all__ and __doc__ are those of the one it stands for.
        if home is None or (name.startswith("__") and name != "__all__"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        try:
            # A module that only gathers names may leave one where it is defined.
            return getattr(importlib.import_module(aliases.canonical(f"{home}:{name}").partition(":")[0]), name)
        except AttributeError:
            hint = _hint(module.__name__, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}{hint}") from None

    def directory() -> list[str]:
        return dir(importlib.import_module(home)) if home is not None else []

    module.__getattr__ = getattribute  # type: ignore[method-assign]
    module.__dir__ = directory  # type: ignore[method-assign]


def _home(name: str) -> str | None:
    """The module of Ironloom that a name stands for; None if there is none."""
    found = aliases.resolve(name)
    try:
        return found if found != name and importlib.util.find_spec(found) is not None else None
    except ModuleNotFoundError:  # below something that is no package
        return None


def _hint(module: str, name: str) -> str:
    home = _home(module)
    known = [] if home is None else [known for known in dir(importlib.import_module(home)) if not known.startswith("_")]
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near!r}?"
