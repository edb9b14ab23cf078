"""From a graph to live objects. Owns the meaning of call, factory, partial and meta.

One build has one memo: a ``call`` node is called once in it and shared, two builds share nothing.
Only what the asked targets reach is imported.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ironloom.config.calculate import calculate
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, children, dotted, occurrences, target_parts
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest


def build(source: Graph | Any, names: str | Sequence[str] = "main", variables: Mapping[str, Any] | None = None) -> Any:
    """Make the objects that a graph describes.

    Args:
        source: A graph, or a value of one (a node, a container, a leaf).
        names: Which targets of the graph: one name gives the object, several give a dict by name.
        variables: Values of the graph's variables.

    Returns:
        The object, or the objects by name. Of a bare value: its object.

    Raises:
        ConfigError: For an unknown target, a module or attribute that does not exist, a variable
            without a value, or a node that needs itself. What a called target raises passes
            through with a note that says where in the configuration it stands.
    """
    if not isinstance(source, Graph):
        return _Build(source, {}, variables or {}).value(source, ())
    unit = _Build(source.root, source.origins, variables or {})
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in source.root:
            near = nearest(name, source.root)
            hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, source.root))
            raise ConfigError(Problem("no such target in the configuration", path=name, hint=hint))
    objects = {name: unit.value(source.root[name], (name,)) for name in wanted}
    return objects[names] if isinstance(names, str) else objects


def locate(target: str) -> Any:
    """Import what ``module:attr.attr`` or ``/folder/file.py:attr.attr`` names.

    Raises:
        ConfigError: If there is no such module, file or attribute. An import that fails inside the
            module passes through.
    """
    module_name, attributes = target_parts(target)
    if not module_name or not attributes:
        raise ConfigError(f"a target has the form module:attribute, found {target!r}")
    found: Any = _file(module_name) if module_name.endswith(".py") else _module(module_name, target)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            near = nearest(attribute, dir(found))
            hint = f"did you mean {near!r}?" if near else ""
            raise ConfigError(Problem(f"{module_name!r} has no {attributes!r} (target {target!r})", hint=hint)) from error
    return found


def _module(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"there is no module {error.name!r} (target {target!r})") from error
        raise


def _file(path: str) -> Any:
    """The module of a Python file; a process runs a file once."""
    name = f"{pathlib.Path(path).stem}_{hashlib.blake2b(path.encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"there is no file {path!r}")
    folder = str(pathlib.Path(path).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # modules beside the file, which it may import now or later
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as in an import
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class Partial:
    """A callable with arguments from the configuration; those of the call are appended and merged.

    The configured arguments are built at each call: ``call`` nodes among them are shared with the
    rest of the build, ``factory`` nodes are made anew. Pickling keeps the arguments as they are then.
    """

    def __init__(self, unit: _Build, node: Node, path: Path):
        self._unit = unit
        self._node = node
        self._path = path
        self.func: Callable[..., Any] = unit.target(node, path)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the target with the configured arguments and these."""
        given, named = self._unit.arguments(self._node, self._path)
        return self._unit.call(self._node, self._path, self.func, (*given, *args), {**named, **kwargs})

    def __reduce__(self) -> tuple[Any, ...]:
        given, named = self._unit.arguments(self._node, self._path)
        return _plain_partial, (self.func, given, named)

    def __repr__(self) -> str:
        return f"Partial({self._node.target}, {dotted(self._path)})"


def _plain_partial(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return functools.partial(func, *args, **kwargs)


class _Build:
    """One build: what has been made so far, and what is being made now."""

    def __init__(self, root: Any, origins: Mapping[Path, Origin], variables: Mapping[str, Any]):
        self._root = root  # keeps the identities in the memo valid
        self._origins = origins
        self._variables = variables
        self._shared = {identity for identity, count in occurrences(root).items() if count > 1}
        self._memo: dict[int, Any] = {}
        self._active: dict[int, Path] = {}

    def value(self, value: Any, path: Path) -> Any:
        """The object of any value of the graph."""
        if isinstance(value, Node):
            shared = value.mode != "factory"
        elif isinstance(value, (Var, Calc)):
            shared = False
        elif type(value) in (dict, list, tuple):
            # A container that stands once in the text is as new as whatever holds it.
            shared = id(value) in self._shared
        else:
            return value
        if shared and id(value) in self._memo:
            return self._memo[id(value)]
        if id(value) in self._active:
            there = dotted(self._active[id(value)])
            raise ConfigError(Problem(f"needs itself: it is what {there} is made of", dotted(path), self._where(value, path)))
        self._active[id(value)] = path
        try:
            made = self._made(value, path)
        finally:
            del self._active[id(value)]
        if shared:
            self._memo[id(value)] = made
        return made

    def _made(self, value: Any, path: Path) -> Any:
        if isinstance(value, Var):
            return self._variable(value, path)
        if isinstance(value, Calc):
            return self._calculated(value, path)
        if isinstance(value, Node):
            if value.mode == "meta":
                return self.call(value, path, self.target(value, path), value.args, value.kwargs)
            if value.mode == "partial":
                return Partial(self, value, path) if value.args or value.kwargs else self.target(value, path)
            func = self.target(value, path)
            return self.call(value, path, func, *self.arguments(value, path))
        if type(value) is dict:
            return {key: self.value(child, (*path, key)) for key, child in children(value)}
        return type(value)(self.value(child, (*path, key)) for key, child in children(value))

    def arguments(self, node: Node, path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The built positional and keyword arguments of a node."""
        args = tuple(self.value(child, (*path, index)) for index, child in enumerate(node.args))
        return args, {key: self.value(child, (*path, key)) for key, child in node.kwargs.items()}

    def target(self, node: Node, path: Path) -> Any:
        """The callable that a node names."""
        try:
            return locate(node.target)
        except ConfigError as error:
            problem = error.problems[0]
            raise ConfigError(Problem(problem.message, dotted(path), self._where(node, path), problem.hint)) from error.__cause__
        except ModuleNotFoundError as error:
            message = f"{node.target} needs the module {error.name!r}, which is not installed"
            raise ConfigError(Problem(message, dotted(path), self._where(node, path))) from error
        except Exception as error:
            error.add_note(self._note("importing", node, path))
            raise

    def call(self, node: Node, path: Path, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a target; what it raises gets a note that says where in the configuration it stands."""
        try:
            return func(*args, **kwargs)
        except Exception as error:
            error.add_note(self._note("calling", node, path))
            raise

    def _variable(self, var: Var, path: Path) -> Any:
        if var.name in self._variables:
            return self._variables[var.name]
        if var.default is REQUIRED:
            near = nearest(var.name, self._variables)
            hint = f"did you mean {near!r}?" if near else f"give {var.name!r} a value"
            raise ConfigError(Problem(f"variable {var.name!r} has no value", dotted(path), self._where(var, path), hint))
        return self.value(var.default, (*path, "default"))

    def _calculated(self, calc: Calc, path: Path) -> Any:
        try:
            return calculate(calc.expression, lambda name: self._variable(Var(name, origin=calc.origin), path))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(Problem(str(error), dotted(path), self._where(calc, path))) from None

    def _note(self, doing: str, node: Node, path: Path) -> str:
        where = self._where(node, path)
        return f"while {doing} {node.target} for {dotted(path) or 'the value'}" + (f", {where}" if where else "")

    def _where(self, value: Any, path: Path) -> Origin | None:
        if isinstance(value, (Node, Var, Calc)) and value.origin is not None:
            return value.origin
        return self._origins.get(path)
