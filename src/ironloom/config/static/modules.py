"""Finding definitions in source text: modules by their path, names through imports. Executes nothing.

Where the text does not tell (C extensions, star imports, names made at run time) the answer is
None, never a guess.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import pathlib
import pkgutil
import sys
from dataclasses import dataclass

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef
# A module that gathers more modules than this, as the models of transformers do, takes too long to follow.
_MOST_STARS = 20
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class NotFoundError(Exception):
    """There is no such module or attribute; ``known`` are the names that there are."""

    def __init__(self, message: str, name: str, known: list[str]):
        super().__init__(message)
        self.name = name
        self.known = known


@dataclass(frozen=True)
class Module:
    """A module's source; ``tree`` is None where it is not Python text."""

    name: str
    tree: ast.Module | None
    is_package: bool
    file: pathlib.Path | None


@dataclass(frozen=True)
class Found:
    """A definition and the module it stands in."""

    module: Module
    node: FunctionDef | ast.ClassDef


@functools.cache
def find_module(name: str) -> Module:
    """Find and parse a module without executing it or its parents."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None:
        known = [*sys.stdlib_module_names, *(found.name for found in pkgutil.iter_modules())]
        raise NotFoundError(f"there is no module {top!r}", top, known)
    folders = [pathlib.Path(place) for place in spec.submodule_search_locations or ()]
    file = pathlib.Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    is_package = bool(folders)
    for depth, part in enumerate(rest, start=1):
        file, is_package, found = _submodule(folders, part)
        if not found:
            here = ".".join((top, *rest[: depth - 1]))
            known = sorted(entry.stem for folder in folders for entry in folder.glob("*") if entry.stem.isidentifier())
            raise NotFoundError(f"{here!r} has no module {part!r}", part, known)
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    tree = ast.parse(file.read_bytes()) if file is not None else None
    return Module(name, tree, is_package, file)


@functools.cache
def find_file(path: str) -> Module:
    """Parse a Python file that is no module of a package."""
    file = pathlib.Path(path)
    if not file.is_file():
        known = [entry.name for entry in file.parent.glob("*.py")]
        raise NotFoundError(f"there is no file {path!r}", file.name, known)
    return Module(path, ast.parse(file.read_bytes()), False, file)


def _submodule(folders: list[pathlib.Path], part: str) -> tuple[pathlib.Path | None, bool, bool]:
    """Source file, whether it is a package, and whether it exists at all."""
    for folder in folders:
        if (folder / part / "__init__.py").is_file():
            return folder / part / "__init__.py", True, True
        if (folder / f"{part}.py").is_file():
            return folder / f"{part}.py", False, True
    for folder in folders:
        if (folder / part).is_dir() or any(folder.glob(f"{part}.*.so")) or any(folder.glob(f"{part}.*.pyd")):
            return None, (folder / part).is_dir(), True
    return None, False, False


def lookup(module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Found | None:
    """The definition of a module's name, through imports; None if the text does not tell."""
    if module.name == "builtins" and not hasattr(builtins, name):
        raise NotFoundError(f"there is no builtin {name!r}", name, dir(builtins))
    if module.tree is None or (module.name, name) in seen:
        return None
    seen = seen | {(module.name, name)}
    bound = binding(module.tree.body, name)
    if isinstance(bound, (ast.ClassDef, *FUNCTIONS)):
        return Found(module, bound)
    if isinstance(bound, ast.ImportFrom):
        origin = next(alias.name for alias in bound.names if (alias.asname or alias.name) == name)
        return _imported(module, bound, origin, seen)
    if bound is not None:
        return None
    found, certain = _through_stars(module, name, seen)
    if found is not None or not certain or _is_dynamic(module.tree) or is_module(f"{module.name}.{name}"):
        return found
    known = [found for node in module.tree.body for found in names(node)]
    raise NotFoundError(f"{module.name!r} has no {name!r}", name, known)


def _through_stars(module: Module, name: str, seen: frozenset[tuple[str, str]]) -> tuple[Found | None, bool]:
    """The definition of a name in what a module imports with ``*``, and whether a None is certain."""
    assert module.tree is not None
    stars = [node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    if len(stars) > _MOST_STARS:
        return None, False
    certain = True
    for node in stars:
        source = _source_of(module, node)
        if not is_module(source):
            certain = False
            continue
        try:
            found = lookup(find_module(source), name, seen)
        except NotFoundError:
            continue
        if found is not None:
            return found, True
        certain = False
    return None, certain


def _imported(module: Module, node: ast.ImportFrom, name: str, seen: frozenset[tuple[str, str]]) -> Found | None:
    try:
        return lookup(find_module(_source_of(module, node)), name, seen)
    except NotFoundError:
        return None


def _source_of(module: Module, node: ast.ImportFrom) -> str:
    """The full name of the module that a ``from ... import`` names."""
    base = module.name.split(".")
    if not node.level:
        base = []
    else:
        base = base[: len(base) - node.level + (1 if module.is_package else 0)]
    return ".".join([*base, *([node.module] if node.module else [])])


def lookup_in(module: Module, prefix: str, name: str) -> Found | None:
    """The definition of ``prefix.name``, where ``prefix`` is a module that ``module`` imports."""
    bound = binding(module.tree.body, prefix) if module.tree is not None else None
    if isinstance(bound, ast.Import):
        alias = next(alias for alias in bound.names if (alias.asname or alias.name.split(".")[0]) == prefix)
        return lookup(find_module(alias.name if alias.asname else prefix), name)
    if isinstance(bound, ast.ImportFrom):
        alias = next(alias for alias in bound.names if (alias.asname or alias.name) == prefix)
        return lookup(find_module(f"{_source_of(module, bound)}.{alias.name}"), name)
    return None


def is_module(name: str) -> bool:
    """Whether there is a module of this name."""
    try:
        find_module(name)
    except NotFoundError:
        return False
    return True


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether a module can make names that its text does not show."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "exec", "setattr"):
            return True
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules":
            return True
    return False


def binding(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The last statement of ``body``, branches included, that binds ``name``."""
    found = None
    for node in body:
        if name in names(node):
            found = node
        for branch in _branches(node):
            found = binding(branch, name) or found
    return found


def _branches(node: ast.stmt) -> list[list[ast.stmt]]:
    """The statement lists inside a statement that runs at the same level."""
    if isinstance(node, ast.If):
        return [node.body, node.orelse]
    if isinstance(node, ast.Try):
        return [*(handler.body for handler in node.handlers), node.orelse, node.finalbody, node.body]
    return [node.body] if isinstance(node, ast.With) else []


def names(node: ast.stmt) -> list[str]:
    """Names that a statement binds."""
    if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [
            part.id
            for target in node.targets
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        ]
    return []
