"""What a target's arguments are called, read from its source without importing it.

Functions give their parameters; classes their constructor's, through inheritance, ``**kwargs``
handed on to ``super().__init__``, and dataclass fields.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ironloom.config.graph import target_parts
from ironloom.config.static import modules
from ironloom.config.static.modules import Found, FunctionDef, Module

# Decorators that leave the arguments as they are.
_TRANSPARENT = {"staticmethod", "classmethod", "cache", "lru_cache", "contextmanager", "no_grad", "inference_mode"}
_TRANSPARENT |= {"final", "override", "deprecated", "total_ordering", "runtime_checkable", "abstractmethod"}
_NO_CONSTRUCTOR = {"object", "ABC", "Protocol", "Generic"}
# Functions that declare a dataclass field, and how many positional arguments a default takes.
_FIELD_MAKERS = {"field", "setting"}


@dataclass(frozen=True)
class Signature:
    """The arguments of a callable.

    Attributes:
        positional: Names of arguments that can be given by position, in order.
        keyword: Names that can be given by keyword.
        required: Names without a default.
        variadic: Takes further positional arguments.
        open: Takes further keyword arguments.
    """

    positional: tuple[str, ...] = ()
    keyword: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    variadic: bool = False
    open: bool = False


def signature(target: str) -> Signature | None:
    """The arguments of ``module:attr.attr`` or ``/folder/file.py:attr.attr``; None if its source does not tell.

    Raises:
        NotFoundError: If there certainly is no such module or attribute.
    """
    name, attributes = target_parts(target)
    first, *rest = attributes.split(".")
    module = modules.find_file(name) if name.endswith(".py") else modules.find_module(name)
    found = modules.lookup(module, first)
    is_method = False
    for attribute in rest:
        if found is None or not isinstance(found.node, ast.ClassDef):
            return None
        inner = modules.binding(found.node.body, attribute)
        is_method = isinstance(inner, modules.FUNCTIONS)
        found = Found(found.module, inner) if isinstance(inner, (ast.ClassDef, *modules.FUNCTIONS)) else None
    if found is None:
        return None
    if isinstance(found.node, ast.ClassDef):
        return _of_class(found.module, found.node)
    return _of_function(found.node, bound=is_method and "classmethod" in _decorators(found.node))


def _of_function(node: FunctionDef, bound: bool) -> Signature | None:
    """The arguments of a function, without the first if it is bound."""
    if set(_decorators(node)) - _TRANSPARENT:
        return None
    args = node.args
    positional = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    optional = set(positional[len(positional) - len(args.defaults) :]) if args.defaults else set()
    optional |= {arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is not None}
    keyword = [arg.arg for arg in (*args.args, *args.kwonlyargs)]
    if bound:
        keyword = [name for name in keyword if name != positional[0]]
        positional = positional[1:]
    required = [name for name in dict.fromkeys([*positional, *keyword]) if name not in optional]
    return Signature(tuple(positional), tuple(keyword), tuple(required), args.vararg is not None, args.kwarg is not None)


def _of_class(module: Module, node: ast.ClassDef) -> Signature | None:
    """The arguments of a class's constructor."""
    if "dataclass" in _decorators(node):
        fields = _fields(module, node)
        return None if fields is None else _of_fields(fields)
    if node.keywords or set(_decorators(node)) - _TRANSPARENT or modules.binding(node.body, "__new__"):
        return None
    init = modules.binding(node.body, "__init__")
    if init is None:
        return _inherited(module, node)
    own = _of_function(init, bound=True) if isinstance(init, modules.FUNCTIONS) else None
    if own is None or not own.open or not _hands_on(init):
        return own
    base = _inherited(module, node)
    if base is None:
        return own
    keyword = tuple(dict.fromkeys((*own.keyword, *base.keyword)))
    required = tuple(dict.fromkeys((*own.required, *_left_open(init, base))))
    return dataclasses.replace(own, keyword=keyword, required=required, open=base.open)


def constructors(module: Module, node: ast.ClassDef) -> Iterator[FunctionDef]:
    """The constructors whose arguments a class takes: its own or inherited one, and those that it hands ``**kwargs`` on to."""
    init = modules.binding(node.body, "__init__")
    if init is not None and not isinstance(init, modules.FUNCTIONS):
        return
    if init is not None:
        yield init
        if init.args.kwarg is None or not _hands_on(init):
            return
    base = _base(module, node)
    if base is not None:
        yield from constructors(*base)


def _inherited(module: Module, node: ast.ClassDef) -> Signature | None:
    if all(_last_name(expression) in _NO_CONSTRUCTOR for expression in node.bases):
        return Signature()
    base = _base(module, node)
    return None if base is None else _of_class(*base)


def _base(module: Module, node: ast.ClassDef) -> tuple[Module, ast.ClassDef] | None:
    """The first base that has a constructor; None if there is none, or it cannot be found."""
    named = [expression for expression in node.bases if _last_name(expression) not in _NO_CONSTRUCTOR]
    return _resolve(module, named[0]) if named else None


def _super_calls(init: ast.stmt) -> list[ast.Call]:
    return [call for call in ast.walk(init) if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__"]


def _hands_on(init: ast.stmt) -> bool:
    """Whether a constructor passes its ``**kwargs`` to ``super().__init__``."""
    return any(keyword.arg is None for call in _super_calls(init) for keyword in call.keywords)


def _left_open(init: ast.stmt, base: Signature) -> list[str]:
    """What the base's constructor needs and ``**kwargs`` have to bring."""
    calls = _super_calls(init)
    given = {keyword.arg for call in calls for keyword in call.keywords}
    for call in calls:
        is_open = any(isinstance(arg, ast.Starred) for arg in call.args)
        given.update(base.positional if is_open else base.positional[: len(call.args)])
    return [name for name in base.required if name not in given]


def _resolve(module: Module, expression: ast.expr) -> tuple[Module, ast.ClassDef] | None:
    """The class that a base names, or None."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    try:
        if isinstance(expression, ast.Name):
            found = modules.lookup(module, expression.id)
        elif isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
            found = modules.lookup_in(module, expression.value.id, expression.attr)
        else:
            found = None
    except modules.NotFoundError:  # a builtin, or a name that the text does not show
        return None
    if found is None or not isinstance(found.node, ast.ClassDef):
        return None
    return found.module, found.node


@dataclass(frozen=True)
class _Field:
    required: bool
    keyword_only: bool


def _fields(module: Module, node: ast.ClassDef) -> dict[str, _Field] | None:
    """The constructor's fields of a dataclass, its bases' first; None if a base cannot be found."""
    fields: dict[str, _Field] = {}
    for expression in reversed(node.bases):
        if _last_name(expression) in _NO_CONSTRUCTOR:
            continue
        base = _resolve(module, expression)
        inner = None if base is None else _fields(*base)
        if inner is None:
            return None
        fields.update(inner)
    if "dataclass" not in _decorators(node):
        return fields
    keyword_only = any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation).rpartition(".")[2]
        if kind == "KW_ONLY":
            keyword_only = True
        elif not ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
            required = _is_required(statement.value)
            if required is not None:
                fields[statement.target.id] = _Field(required, keyword_only)
    return fields


def _is_required(value: ast.expr | None) -> bool | None:
    """Whether a dataclass field has no default; None if it is no argument at all."""
    if value is None:
        return True
    if not isinstance(value, ast.Call) or _last_name(value.func) not in _FIELD_MAKERS:
        return False
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    if "init" in given and ast.unparse(given["init"]) == "False":
        return None
    return not (value.args or "default" in given or "default_factory" in given)


def _of_fields(fields: dict[str, _Field]) -> Signature:
    positional = tuple(name for name, field in fields.items() if not field.keyword_only)
    required = tuple(name for name, field in fields.items() if field.required)
    return Signature(positional, tuple(fields), required)


def _decorators(node: FunctionDef | ast.ClassDef) -> list[str]:
    """The last name of each decorator: ``dataclass`` of ``@dataclasses.dataclass(frozen=True)``."""
    return [_last_name(decorator) for decorator in node.decorator_list]


def _last_name(expression: ast.expr) -> str:
    """The name of an expression without what it is taken from or applied to."""
    if isinstance(expression, (ast.Call, ast.Subscript)):
        return _last_name(expression.func if isinstance(expression, ast.Call) else expression.value)
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else "?"
