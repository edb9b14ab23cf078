"""A graph as a Python program whose ``construct(**variables)`` builds what the graph describes.

The program builds the same objects with the same sharing as :func:`ironloom.config.build.build`:

* a node or container that stands in several places is a variable;
* what only a partial's call or a variable's default may need is a cached function, called when needed;
* a factory in several places is a function;
* a partial is ``functools.partial`` where its arguments cannot change, else a function that makes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Path, Var, children, dotted, is_leaf, is_plain, occurrences
from ironloom.config.views.layout import INDENT, Code, Group, lines, one_line, prefixed
from ironloom.config.views.names import Names, is_name
from ironloom.config.views.spelling import brackets, calculation, keywords, literal, names_in
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest

#: Brackets nested deeper than this become functions of their own; Python's parser has a limit too.
DEPTH = 16


def dump(graph: Graph, names: str | Iterable[str] | None = None) -> str:
    """The program.

    Args:
        graph: What to write.
        names: One target: ``construct`` returns its object. Several, or all (None): it returns a dict by name.

    Raises:
        ConfigError: For an unknown target, a leaf that text cannot hold, or a node that needs itself.
    """
    single = isinstance(names, str)
    wanted = [names] if isinstance(names, str) else list(graph.root if names is None else names)
    for name in wanted:
        if name not in graph.root:
            near = nearest(name, graph.root)
            hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
            raise ConfigError(Problem("no such target in the configuration", path=name, hint=hint))
    return _Writer(graph, wanted).program(single)


class _Writer:
    """Writes the statements of ``construct`` in the order in which they need each other."""

    def __init__(self, graph: Graph, wanted: list[str]):
        self._graph = graph
        self._wanted = wanted
        self._shared = {identity for identity, count in occurrences(graph.root).items() if count > 1}
        values = [graph.root[name] for name in wanted]
        self._counts = occurrences(values)
        self._eager = {id(value) for value in _reached(values, lazily=False)}
        self._names = Names("construct", "args", "kwargs", "UNSET", "sys")
        self._root_names = {id(value): name for name, value in graph.root.items() if not is_leaf(value)}
        self._statements: list[str] = []
        self._made: dict[int, str] = {}
        self._active: set[int] = set()
        self._quoted: dict[int, str] = {}
        reached = list(_reached(values, lazily=True))
        for value in reached:
            if isinstance(value, Node):
                self._names.target(value.target)
        self._parameters = self._declared(reached)

    def program(self, single: bool) -> str:
        """The whole text."""
        if single:
            result = self._code(self._graph.root[self._wanted[0]], (self._wanted[0],), True, 0)
        else:
            parts = [prefixed(f"{literal(name)}: ", self._target(name)) for name in self._wanted]
            result = Group("{", tuple(parts), "}")
        self._statements += lines(prefixed("return ", result), INDENT)
        parameters = ", ".join(code for _, code in self._parameters.values())
        head = f"def construct({'*, ' if parameters else ''}{parameters}):"
        unset = ["UNSET = object()", ""] if any(code.endswith("=UNSET") for _, code in self._parameters.values()) else []
        docstring = f'{INDENT}"""Build what the configuration describes."""'
        body = re.sub(r"\n{3,}", "\n\n", "\n".join([docstring, *self._statements]))
        top = "\n".join([*self._search_path(), *self._names.header(), *unset, ""])
        return f"{top}\n{head}\n{body}\n".lstrip("\n")

    def _search_path(self) -> list[str]:
        """The lines that let Python find the modules of a project, as building from the configuration does."""
        folders = self._graph.root.get("system_path")
        if not isinstance(folders, list) or not folders or not all(isinstance(folder, str) for folder in folders):
            return []
        added = lines(Group("sys.path.extend([", tuple(map(literal, folders)), "])"))
        return ["import sys", "", *added, ""]

    def _target(self, name: str) -> Code:
        """The expression of one of several targets: a variable, unless it is short."""
        value = self._graph.root[name]
        code = self._code(value, (name,), True, 0)
        if isinstance(code, str) or len(one_line(code)) < 40:
            return code
        return self._variable(value, self._wish(value, (name,)), code)

    # Variables of the configuration.

    def _declared(self, reached: list[Any]) -> dict[str, tuple[str, str]]:
        """For each variable: its name as a parameter, and how it is declared."""
        found: dict[str, list[Any]] = {}
        for value in reached:
            if isinstance(value, Var):
                found.setdefault(value.name, []).append(value.default)
            elif isinstance(value, Calc):
                for name in names_in(value):
                    found.setdefault(name, []).append(REQUIRED)
        declared = {}
        for name, defaults in found.items():
            parameter = self._names.new(name)
            if any(default is REQUIRED for default in defaults):
                declared[name] = (parameter, parameter)
            elif all(is_leaf(default) for default in defaults) and len({literal(default) for default in defaults}) == 1:
                declared[name] = (parameter, f"{parameter}={literal(defaults[0])}")
            else:
                declared[name] = (parameter, f"{parameter}=UNSET")
        return declared

    def _var(self, var: Var, path: Path, depth: int) -> Code:
        parameter, declaration = self._parameters[var.name]
        if not declaration.endswith("=UNSET"):
            return parameter
        # Another occurrence may need the default too: what is called in it is shared, never written in place.
        default = self._code(var.default, (*path, "default"), False, depth)
        if isinstance(default, Group) and not is_plain(var.default):
            default = self._function(default, self._names.new(f"default_{parameter}"), cached=False)
        return prefixed(f"{parameter} if {parameter} is not UNSET else ", default)

    # Values.

    def _code(self, value: Any, path: Path, once: bool, depth: int) -> Code:
        """The expression of a value; ``once``: it stands where it is evaluated one time at most."""
        if is_leaf(value):
            return self._leaf(value, path)
        if isinstance(value, Var):
            return self._in_brackets(self._var(value, path, depth))
        if isinstance(value, Calc):
            return calculation(value, self._names, {name: parameter for name, (parameter, _) in self._parameters.items()})
        if id(value) in self._made:
            return self._made[id(value)]
        if id(value) in self._active:
            raise ConfigError(Problem("needs itself", dotted(path), self._graph.origin(path)))
        self._active.add(id(value))
        try:
            return self._composed(value, path, once, depth)
        finally:
            self._active.discard(id(value))

    def _composed(self, value: Any, path: Path, once: bool, depth: int) -> Code:
        """The expression of a node or container."""
        wish = self._wish(value, path)
        is_deep = depth >= DEPTH
        if isinstance(value, Node) and value.mode == "partial":
            return self._partial(value, path, wish, once)
        if isinstance(value, Node) and value.mode == "factory":
            if self._counts.get(id(value), 0) > 1 or is_deep:
                return self._made_as(value, self._function(self._call(value, path, False, 0), wish, cached=False))
            return self._call(value, path, once, depth)
        if id(value) not in self._shared and not isinstance(value, Node):
            if is_deep:
                return self._function(self._container(value, path, False, 0), wish, cached=False)
            return self._container(value, path, once, depth)
        # Called once: in place if nothing else can ask for it.
        if once and not is_deep and self._counts.get(id(value), 0) <= 1 and id(value) not in self._shared:
            return self._call(value, path, True, depth)
        code = self._container(value, path, True, 0) if not isinstance(value, Node) else self._call(value, path, True, 0)
        if id(value) in self._eager:
            return self._variable(value, wish, code)
        return self._made_as(value, self._function(code, wish, cached=True))

    def _container(self, value: Any, path: Path, once: bool, depth: int) -> Code:
        parts = [(key, self._code(child, (*path, key), once, depth + 1)) for key, child in children(value)]
        return brackets(value, parts)

    def _call(self, node: Node, path: Path, once: bool, depth: int) -> Code:
        """The expression that calls a node's target."""
        if node.mode == "meta":
            args: list[Code] = [self._quote(child, (*path, index)) for index, child in enumerate(node.args)]
            kwargs = {key: self._quote(child, (*path, key)) for key, child in node.kwargs.items()}
        else:
            args = [self._code(child, (*path, index), once, depth + 1) for index, child in enumerate(node.args)]
            kwargs = {key: self._code(child, (*path, key), once, depth + 1) for key, child in node.kwargs.items()}
        return Group(f"{self._names.target(node.target)}(", (*args, *keywords(kwargs)), ")")

    def _partial(self, node: Node, path: Path, wish: str, once: bool) -> Code:
        target = self._names.target(node.target)
        if not node.args and not node.kwargs:
            return target
        args = [self._code(child, (*path, index), False, 1) for index, child in enumerate(node.args)]
        kwargs = {key: self._code(child, (*path, key), False, 1) for key, child in node.kwargs.items()}
        if all(_is_constant(child) for _, child in children(node)):
            code = Group(f"{self._names.target('functools:partial')}(", (target, *args, *keywords(kwargs)), ")")
            if once and self._counts.get(id(node), 0) <= 1:
                return code
            return self._variable(node, wish, code)
        merged = Group("**{", (*(prefixed(f"{literal(key)}: ", code) for key, code in kwargs.items()), "**kwargs"), "}")
        call = Group(f"{target}(", (*args, "*args", merged if kwargs else "**kwargs"), ")")
        return self._made_as(node, self._function(call, wish, cached=False, parameters="*args, **kwargs").removesuffix("()"))

    def _leaf(self, value: Any, path: Path) -> str:
        try:
            return literal(value)
        except TypeError as error:
            raise ConfigError(Problem(str(error), dotted(path), self._graph.origin(path))) from None

    def _in_brackets(self, code: Code) -> Code:
        """A conditional expression that can stand anywhere."""
        text = one_line(code)
        return text if is_name(text) else Group("(", (code,), ")", "never")

    # The arguments of a meta node: graphs, not what they build.

    def _quote(self, value: Any, path: Path) -> Code:
        """An expression that makes the part of a graph itself."""
        if is_leaf(value):
            return self._leaf(value, path)
        if id(value) not in self._quoted:
            name = self._names.new(f"{self._wish(value, path)}_graph")
            self._statements += lines(prefixed(f"{name} = ", self._quotation(value, path)), INDENT)
            self._quoted[id(value)] = name
        return self._quoted[id(value)]

    def _quotation(self, value: Any, path: Path) -> Code:
        inside = [(key, self._quote(child, (*path, key))) for key, child in children(value)]
        if isinstance(value, Node):
            args = Group(
                "(", tuple(code for _, code in inside[: len(value.args)]), ")", comma="always" if len(value.args) == 1 else "broken"
            )
            kwargs = Group("{", tuple(prefixed(f"{literal(key)}: ", code) for key, code in inside[len(value.args) :]), "}")
            parts: tuple[Code, ...] = (literal(value.target), literal(value.mode), args, kwargs, literal(value.name))
            return Group(f"{self._names.target('ironloom.config.graph:Node')}(", parts, ")")
        if isinstance(value, Var):
            return Group(f"{self._names.target('ironloom.config.graph:Var')}(", (literal(value.name), *(code for _, code in inside)), ")")
        if isinstance(value, Calc):
            return Group(f"{self._names.target('ironloom.config.graph:Calc')}(", (literal(value.expression),), ")")
        return brackets(value, inside)

    # Statements.

    def _wish(self, value: Any, path: Path) -> str:
        """A name to ask for: the node's own, its target's key, or the key it stands under."""
        if isinstance(value, Node) and value.name:
            return value.name
        if id(value) in self._root_names:
            return self._root_names[id(value)]
        key = next((str(key) for key in reversed(path) if isinstance(key, str)), "value")
        return key if not path or isinstance(path[-1], str) else f"{key}_{path[-1]}"

    def _variable(self, value: Any, wish: str, code: Code) -> str:
        name = self._names.new(wish)
        self._statements += lines(prefixed(f"{name} = ", code), INDENT)
        return self._made_as(value, name)

    def _function(self, code: Code, wish: str, *, cached: bool, parameters: str = "") -> str:
        """A function that returns the expression, and the call of it."""
        name = self._names.new(wish)
        head = [f"@{self._names.target('functools:cache')}"] if cached else []
        head.append(f"def {name}({parameters}):")
        self._statements += ["", *(INDENT + line for line in head), *lines(prefixed("return ", code), INDENT * 2), ""]
        return f"{name}()"

    def _made_as(self, value: Any, expression: str) -> str:
        self._made[id(value)] = expression
        return expression


def _reached(values: list[Any], *, lazily: bool) -> Iterator[Any]:
    """Everything that building ``values`` needs; ``lazily``: with what only calls of partials and defaults may need."""
    seen: set[int] = set()
    stack = list(reversed(values))
    while stack:
        value = stack.pop()
        if is_leaf(value) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        is_lazy = isinstance(value, Var) or (isinstance(value, Node) and value.mode == "partial")
        if isinstance(value, Node) and value.mode == "meta":
            continue
        if lazily or not is_lazy:
            stack.extend(reversed([child for _, child in children(value)]))


def _is_constant(value: Any) -> bool:
    """Whether a value is the same object in effect however often it is made."""
    return is_leaf(value) or (type(value) is tuple and all(map(_is_constant, value)))
