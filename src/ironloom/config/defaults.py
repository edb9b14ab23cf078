"""What the arguments of a target are when nobody gives them, without importing what is not a settings class.

Settings classes are asked; of other targets the literal defaults are read from the source.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
from typing import Any

from ironloom.config.build import locate
from ironloom.config.graph import target_parts
from ironloom.config.static import NotFoundError, constructors, modules
from ironloom.errors import ConfigError
from ironloom.settings.base import Settings

SETTINGS = "ironloom.settings"


@functools.cache
def settings_class(target: str) -> type[Settings] | None:
    """The settings class that a target names, or None; nothing outside the settings is imported."""
    module = target.partition(":")[0]
    if module != SETTINGS and not module.startswith(f"{SETTINGS}."):
        return None
    try:
        found = locate(target)
    except ConfigError:
        return None
    return found if isinstance(found, type) and issubclass(found, Settings) else None


@functools.cache
def canonical(target: str) -> str:
    """The target under the module that defines it, where the source tells: one callable has one name."""
    first, _, rest = target_parts(target)[1].partition(".")
    found = _definition(target, first)
    return target if found is None else f"{found.module.name}:{found.node.name}" + (f".{rest}" if rest else "")


def _definition(target: str, name: str) -> modules.Found | None:
    """The definition of a name in the module or file of a target, where the source tells."""
    place = target_parts(target)[0]
    try:
        return modules.lookup(modules.find_file(place) if place.endswith(".py") else modules.find_module(place), name)
    except (NotFoundError, SyntaxError, ValueError):
        return None


def defaults(target: str) -> dict[str, Any]:
    """Default values by argument; arguments whose default the source does not spell out are missing."""
    cls = settings_class(target)
    if cls is not None:
        return {field.name: default_of(field) for field in dataclasses.fields(cls) if not is_required(field)}  # type: ignore[arg-type]
    return copy.deepcopy(dict(_literal_defaults(target)))


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field that has one, as plain data."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return value.to_dict() if isinstance(value, Settings) else value


@functools.cache
def _literal_defaults(target: str) -> tuple[tuple[str, Any], ...]:
    found = _definition(target, target_parts(target)[1])
    if found is None:
        return ()
    if isinstance(found.node, ast.ClassDef):
        values: dict[str, Any] = {}
        taken: set[str] = set()
        for init in constructors(found.module, found.node):  # what a class says of an argument holds, not what its base says
            values.update((name, value) for name, value in _of_function(init) if name not in taken)
            taken.update(arg.arg for arg in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs))
        return tuple((values or dict(_of_fields(found.node))).items())
    return tuple(_of_function(found.node))


def _of_function(node: modules.FunctionDef) -> list[tuple[str, Any]]:
    args = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(args[len(args) - len(node.args.defaults) :], node.args.defaults, strict=True))
    pairs += [(arg, default) for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is not None]
    return _literal([(arg.arg, default) for arg, default in pairs])


def _of_fields(node: ast.ClassDef) -> list[tuple[str, Any]]:
    """Defaults of a dataclass's own fields."""
    if not any(ast.unparse(decorator).rpartition(".")[2].startswith("dataclass") for decorator in node.decorator_list):
        return []
    fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)]
    return _literal([(ast.unparse(field.target), field.value) for field in fields if field.value is not None])


def _literal(pairs: list[tuple[str, ast.expr]]) -> list[tuple[str, Any]]:
    """The pairs whose expression is a literal, with its value."""
    found = []
    for name, expression in pairs:
        try:
            found.append((name, ast.literal_eval(expression)))
        except ValueError:
            continue
    return found
