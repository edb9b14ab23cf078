"""What ``!var`` and ``!calc`` stand for: names from overrides, ``-- set``, arguments and the trainer's arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.config import calculate, secrets
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Step, Var, dotted, is_leaf, is_plain, walk
from ironloom.config.overrides import ORIGIN
from ironloom.config.templates.render import Rendered
from ironloom.errors import Origin, Problem

TRAINER_ARGS = "trainer_args"


def used(root: Any) -> Iterator[str]:
    """The names that variables and calculations of a graph need."""
    for _, value in walk(root):
        if isinstance(value, Var):
            yield value.name
        elif isinstance(value, Calc):
            yield from _names(value)


def _names(calc: Calc) -> list[str]:
    try:
        return calculate.names(calc.expression)
    except ValueError:
        return []


def resolve(graph: Graph, rendered: Rendered, forced: Mapping[str, Any]) -> None:
    """Replace variables and calculations whose names are known by their values, in place.

    A name is looked up in ``forced``, among the trainer's arguments that an override set, in the variables of the
    rendering, and among the trainer's arguments that the configuration sets. A calculation that cannot be made becomes
    a problem of the graph.
    """
    unit = _Resolver(graph, rendered, forced)
    graph.root = {name: unit.value(value, (name,)) for name, value in graph.root.items()}
    graph.variables = unit.known()


class _Resolver:
    """One pass over a graph. What is shared before is shared after."""

    def __init__(self, graph: Graph, rendered: Rendered, forced: Mapping[str, Any]):
        self._graph = graph
        self._rendered = rendered
        self._forced = forced
        self._fields, self._front = _fields(graph)
        self._made: dict[int, Any] = {}
        self._open: list[str] = []

    def known(self) -> dict[str, Origin]:
        """Where each name that can be looked up was set."""
        found = {name: self._graph.origin((*self._front, name)) for name in self._fields if self._find(name) is not None}
        fields = {name: origin for name, origin in found.items() if origin is not None}
        return {**fields, **self._rendered.set_at, **dict.fromkeys(self._forced, ORIGIN)}

    def value(self, value: Any, path: Path) -> Any:
        """The value with everything in it resolved."""
        if isinstance(value, (Var, Calc)):
            return self._looked_up(value, path) if isinstance(value, Var) else self._calculated(value, path)
        if is_leaf(value):
            return value
        if id(value) not in self._made:
            self._copy(value, path)
        return self._made[id(value)]

    def _copy(self, value: Any, path: Path) -> None:
        """Copy a node or container; it is known before its contents, which may lead back to it."""
        if isinstance(value, Node):
            kwargs: dict[str, Any] = {}
            args = tuple(self.value(child, (*path, index)) for index, child in enumerate(value.args))
            self._made[id(value)] = dataclasses.replace(value, args=args, kwargs=kwargs)
            kwargs.update({key: self.value(child, (*path, key)) for key, child in value.kwargs.items()})
        elif type(value) is dict:
            self._made[id(value)] = mapping = {}
            mapping.update({key: self.value(child, (*path, key)) for key, child in value.items()})
        else:
            items = (self.value(child, (*path, index)) for index, child in enumerate(value))
            self._made[id(value)] = type(value)(items)

    def _looked_up(self, var: Var, path: Path) -> Any:
        found = self._find(var.name)
        if found is None:
            if var.default is REQUIRED:
                return var
            return dataclasses.replace(var, default=self.value(var.default, (*path, "default")))
        value, origin = found
        self._note(path, f"!var {var.name}", origin, var.origin)
        return self.value(value, path)

    def _calculated(self, calc: Calc, path: Path) -> Any:
        found = self._calculate(calc, path)
        if found is None:
            return calc
        where = calc.origin or self._graph.origin(path)
        if where is not None:
            self._note(path, f"!calc {calc.expression}", dataclasses.replace(where, route="derived"), where)
        return found[0]

    def _calculate(self, calc: Calc, path: Path) -> tuple[Any] | None:
        """The result; None if a name is not known."""
        given: dict[str, Any] = {}
        try:
            for name in calculate.names(calc.expression):
                found = self._find(name)
                if found is None:
                    return None
                given[name] = self._plain(found[0], path)
                if not is_plain(given[name]):
                    raise ValueError(f"{name!r} is not known before the configuration is built")
            return (calculate.calculate(calc.expression, given.__getitem__),)
        except ValueError as error:
            problem = Problem(str(error), dotted(path), calc.origin)
            if problem not in self._graph.problems:
                self._graph.problems.append(problem)
            return (None,)

    def _plain(self, value: Any, path: Path) -> Any:
        """The value behind a variable or calculation."""
        if isinstance(value, Calc):
            found = self._calculate(value, path)
            return value if found is None else found[0]
        return value

    def _find(self, name: str) -> tuple[Any, Origin | None] | None:
        """Value and place of a name; None if it is not known, or needs itself."""
        if name in self._forced:
            return self._reference(self._forced[name], ORIGIN)
        field = self._fields.get(name, REQUIRED)
        origin = self._graph.origins.get((*self._front, name))
        if field is not REQUIRED and origin is not None and origin.route == "override":
            return field, origin
        if name in self._rendered.variables:
            return self._reference(self._rendered.variables[name], self._rendered.set_at[name])
        if field is REQUIRED or name in self._open:
            return None
        self._open.append(name)
        try:
            if isinstance(field, Var):
                return self._find(field.name) or ((field.default, field.origin) if field.default is not REQUIRED else None)
            if isinstance(field, Calc):
                found = self._calculate(field, (*self._front, name))
                return None if found is None else (found[0], field.origin)
            return field, origin
        finally:
            self._open.pop()

    def _reference(self, value: Any, origin: Origin) -> tuple[Any, Origin]:
        """A value that a template set; what holds a secret stays a reference to it."""
        return secret(value, self._rendered.secrets, origin), origin

    def _note(self, path: Path, text: str, origin: Origin | None, earlier: Origin | None) -> None:
        if origin is not None:
            self._graph.origins[path] = origin
        if earlier is not None:
            self._graph.earlier.setdefault(path, []).append(Step(text, earlier))


def secret(value: Any, names: set[str], origin: Origin | None) -> Any:
    """The value, or a node that reads the environment where it is a text with ``<NAME>`` for one of ``names``."""
    found = [name for name in names if isinstance(value, str) and f"<{name}>" in value]
    if not found:
        return value
    text = value.replace("${", "$${")
    for name in found:
        text = text.replace(f"<{name}>", f"${{{name}}}")
    return secrets.reference(text, typed=False, origin=origin)


def _fields(graph: Graph) -> tuple[dict[str, Any], Path]:
    """The trainer's arguments that the configuration sets, and the path where they stand first."""
    found = graph.root.get(TRAINER_ARGS)
    fields = found.kwargs if isinstance(found, Node) else found
    if not isinstance(fields, dict):
        return {}, ()
    front = next(path for path, value in walk(graph.root) if value is found)
    return fields, front
