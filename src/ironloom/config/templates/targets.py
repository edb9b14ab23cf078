"""What the tags of templates may name, to the one form of a target in graphs."""

from __future__ import annotations

import builtins
import os
import pathlib
import re
from collections.abc import Sequence

from ironloom.config import aliases, static
from ironloom.settings.base import nearest

EXTRAS = {
    "items": "ironloom.config.targets:items",
    "keys": "ironloom.config.targets:keys",
    "values": "ironloom.config.targets:values",
    "getitem": "operator:getitem",
    "call": "operator:call",
    "named_list": "ironloom.config.targets:named_list",
    "named_tuple": "ironloom.config.targets:named_tuple",
    "named_dict": "builtins:dict",
}
_FILE = re.compile(r"(.+\.py):([A-Za-z_][\w.]*)")
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
FORMS = "a target has the form module:attribute, file.py:attribute, or the name of a builtin"


class WrongTargetError(ValueError):
    """What a tag names cannot be a target; ``hint`` says what could."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


def canonical(spec: str, file: str, search: Sequence[str | pathlib.Path]) -> str:
    """The target that a tag in ``file`` names.

    Args:
        spec: ``module:attribute``, ``file.py:attribute``, a builtin, ``module.attribute``, or one of :data:`EXTRAS`.
        file: The template file; Python files are looked up beside it, then in ``search`` and what lies around it.
        search: The search path of templates.

    Raises:
        WrongTargetError: If it is none of these, or a file that does not exist.
    """
    in_file = _FILE.fullmatch(spec)
    if in_file:
        return f"{_python_file(in_file[1], file, search)}:{in_file[2]}"
    if spec.startswith("."):
        raise WrongTargetError(f"{spec!r} is relative to a package", "write the whole path of the module, or file.py:attribute")
    if _MODULE.fullmatch(spec):
        return aliases.canonical(spec)
    if not _DOTTED.fullmatch(spec):
        raise WrongTargetError(f"{FORMS}, found {spec!r}")
    first, dot, _ = spec.partition(".")
    if spec in EXTRAS:
        return EXTRAS[spec]
    if hasattr(builtins, first):
        return f"builtins:{spec}"
    if dot:
        return aliases.canonical(_split(spec))
    near = nearest(spec, [*EXTRAS, *(name for name in dir(builtins) if not name.startswith("_"))])
    raise WrongTargetError(f"there is no builtin {spec!r}", f"did you mean {near!r}?" if near else FORMS)


def _split(spec: str) -> str:
    """``a.b.c`` with a colon behind the longest part that is a module."""
    parts = spec.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if static.is_module(aliases.resolve(".".join(parts[:end]))):
            return ".".join(parts[:end]) + ":" + ".".join(parts[end:])
    return ".".join(parts[:-1]) + ":" + parts[-1]


def _python_file(name: str, file: str, search: Sequence[str | pathlib.Path]) -> str:
    path = pathlib.Path(name)
    folders = [pathlib.Path(file).parent, *map(pathlib.Path, search)]
    folders += [folder.parent for folder in folders]
    places = [path] if path.is_absolute() else [folder / path for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        names = [str(entry.relative_to(folder)) for folder in folders if folder.is_dir() for entry in folder.glob("*.py")]
        near = nearest(name, names)
        hint = f"did you mean {near!r}?" if near else f"it is looked up beside {file}, then in the search path"
        raise WrongTargetError(f"there is no file {name!r}", hint)
    absolute = os.path.abspath(found)  # noqa: PTH100 - links stay as they are written
    if "@" in absolute:
        raise WrongTargetError(f"the path {absolute!r} holds '@', which separates names in tags")
    return absolute
