"""Jinja for templates: sandbox, loader, and marks that tell which template line wrote which output line.

Every compiled template calls back where it writes text and where it sets a variable. In the first rendering that
changes nothing. In a second one (:attr:`TemplateEnvironment.marking`) what is written carries invisible marks, one
in front of the first character of each line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, TemplateNotFound, nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from ironloom.config import calculate
from ironloom.config.templates import functions
from ironloom.config.templates.files import MISSING, Files, Template
from ironloom.config.templates.lines import rewrite
from ironloom.errors import Origin

MARK = re.compile("\ue000([0-9]+)\ue001")


@dataclass
class Facts:
    """What the text of a template says about its part in the whole.

    Attributes:
        extends: Names of templates that it extends.
        includes: Names that it includes or imports.
        is_dynamic: Some names are only known when it is rendered.
        blocks: Line of each block.
        outer: Those of them that stand in no other block.
        names: Variables that it reads or sets.
    """

    extends: list[str] = field(default_factory=list)
    includes: list[str] = field(default_factory=list)
    is_dynamic: bool = False
    blocks: dict[str, int] = field(default_factory=dict)
    outer: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class _Loader(BaseLoader):
    def __init__(self, files: Files):
        self._files = files

    def get_source(self, environment: Any, template: str) -> tuple[str, str, Any]:
        """Jinja text, file, and a function that says whether it is still that."""
        if template.startswith(MISSING):
            raise TemplateNotFound(template.removeprefix(MISSING))
        found = self._files.get(template)
        text = rewrite(found.text)
        if found.line > 1:  # a comment in front gives every line the number that it has in its file
            text = "{#" + "\n" * (found.line - 2) + "#}\n" + text
        return text, found.file, lambda: True


class _Context(Context):
    """Notes itself, because the variables that a template sets are found in its context."""

    def __init__(self, environment: Any, parent: Any, name: Any, blocks: Any, globals: Any = None):
        super().__init__(environment, parent, name, blocks, globals)
        environment.contexts.append(self)


class TemplateEnvironment(SandboxedEnvironment):
    """The Jinja environment of one rendering.

    Args:
        files: Where templates are found.
        forced: Values of variables that no ``set`` changes.

    Attributes:
        marking: Whether what is written carries marks.
        places: Origin of each mark.
        facts: Facts of each template that was loaded, by key.
        routes: How each template was reached first, by key: file, template, include.
        edges: Which templates each one asked for, by key.
        contexts: The contexts of the rendering.
        set_at: Where each variable was set last.
        secrets: Names of the secret environment variables that were read.
    """

    context_class = _Context
    intercepted_binops = frozenset(["**", "*"])

    def __init__(self, files: Files, forced: Mapping[str, Any]):
        super().__init__(loader=_Loader(files), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        self.files = files
        self.marking = False
        self.places: list[Origin] = []
        self.facts: dict[str, Facts] = {}
        self.routes: dict[str, str] = {files.main: "file"}
        self.edges: dict[str, list[str]] = {}
        self.contexts: list[Context] = []
        self.set_at: dict[str, Origin] = {}
        self._forced = forced
        system = functions.System()
        self.secrets = system.environ.secrets
        self.globals.update(functions.names(files.main), os=system)
        self.filters["toyaml"] = functions.to_yaml

    def join_path(self, template: str, parent: str) -> str:
        """The key of what ``template`` means in the template ``parent``."""
        key = self.files.key(template, parent)
        asked = self.edges.setdefault(parent, [])
        if key not in asked:
            asked.append(key)
        if not key.startswith(MISSING):
            self.routes.setdefault(key, self._route(self.files.get(key), template, parent))
        return key

    def _route(self, found: Template, name: str, parent: str) -> str:
        if found.file == self.files.main:
            return "file"
        return "include" if name in self.facts[parent].includes else "template"

    def compile(self, source: Any, name: Any = None, filename: Any = None, raw: bool = False, defer_init: bool = False) -> Any:
        """Jinja's, with the calls back in the template."""
        tree = self.parse(source, name, filename)
        self.facts[name] = _facts(tree)
        _put_loose_text_first(tree)
        for output in tree.find_all(nodes.Output):
            output.nodes = [self._marked(child, name) for child in output.nodes]
        for assignment in tree.find_all(nodes.Assign):
            if isinstance(assignment.target, nodes.Name):
                assignment.node = self._noted(assignment, name)
        tree.set_environment(self)
        return super().compile(tree, name, filename, defer_init=defer_init)

    def _call(self, method: str, line: int, *args: nodes.Expr) -> nodes.Expr:
        return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None, lineno=line)

    def _place(self, key: str, line: int, route: str = "") -> nodes.Const:
        """The number of a mark for a line of a template."""
        self.places.append(Origin(self.files.get(key).file, line, route=route or self.routes[key]))
        return nodes.Const(len(self.places) - 1)

    def _marked(self, child: nodes.Node, key: str) -> nodes.Expr:
        assert isinstance(child, nodes.Expr)
        if not isinstance(child, nodes.TemplateData):
            return self._call("place_value", child.lineno, child, self._place(key, child.lineno))
        if not child.data.strip():
            return child
        first = self._place(key, child.lineno)
        for offset in range(1, child.data.count("\n") + 1):
            self._place(key, child.lineno + offset)
        return self._call("place_text", child.lineno, nodes.Const(child.data), first)

    def _noted(self, assignment: nodes.Assign, key: str) -> nodes.Expr:
        """The value of a ``set``, which tells where it is set, or the forced one instead."""
        assert isinstance(assignment.target, nodes.Name) and isinstance(assignment.node, nodes.Expr)
        name = assignment.target.name
        if name in self._forced:
            return self._call("forced_value", assignment.lineno, nodes.Const(name))
        uses = {used.name for used in assignment.node.find_all(nodes.Name)}
        uses |= {assignment.node.name} if isinstance(assignment.node, nodes.Name) else set()
        place = self._place(key, assignment.lineno, "environment" if "os" in uses else "")
        return self._call("note_value", assignment.lineno, assignment.node, nodes.Const(name), place)

    def place_text(self, text: str, first: int) -> str:
        """Text of a template, marked from ``first`` on if marking."""
        if not self.marking:
            return text
        return "\n".join(_mark(line, first + offset) for offset, line in enumerate(text.split("\n")))

    def place_value(self, value: Any, place: int) -> Any:
        """The value of an expression, its lines marked if marking, where they are not yet."""
        if not self.marking:
            return value
        return "\n".join(line if MARK.search(line) else _mark(line, place) for line in str(value).split("\n"))

    def note_value(self, value: Any, name: str, place: int) -> Any:
        """The value of a ``set``."""
        self.set_at[name] = self.places[place]
        return value

    def forced_value(self, name: str) -> Any:
        """The value that a variable has whatever is set."""
        return self._forced[name]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Powers and products of bounded size."""
        return calculate.power(left, right) if operator == "**" else calculate.product(left, right)


def _mark(line: str, place: int) -> str:
    text = line.lstrip()
    return f"{line[: len(line) - len(text)]}\ue000{place}\ue001{text}" if text else line


def _facts(tree: nodes.Template) -> Facts:
    facts = Facts()
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        assert isinstance(node, (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport))
        names = _constant_names(node.template)
        facts.is_dynamic |= not names
        (facts.extends if isinstance(node, nodes.Extends) else facts.includes).extend(names)
    inner = {id(block) for outer in tree.find_all(nodes.Block) for block in outer.find_all(nodes.Block)}
    for block in tree.find_all(nodes.Block):
        facts.blocks[block.name] = block.lineno
        if id(block) not in inner:
            facts.outer[block.name] = block.lineno
    facts.names = {name.name for name in tree.find_all(nodes.Name)}
    return facts


def _constant_names(expression: nodes.Expr) -> list[str]:
    parts = expression.items if isinstance(expression, (nodes.List, nodes.Tuple)) else [expression]
    names = [part.value for part in parts if isinstance(part, nodes.Const) and isinstance(part.value, str)]
    return names if len(names) == len(parts) else []


def _put_loose_text_first(tree: nodes.Template) -> None:
    """Let what a template says outside blocks precede the text of the template that it extends.

    Jinja drops such text silently. Here definitions for the blocks can stand there; comments are left out.
    """
    extends = [node for node in tree.body if isinstance(node, nodes.Extends)]
    if len(extends) != 1:
        return
    others = [node for node in tree.body if node is not extends[0]]
    last = [node for node in others if isinstance(node, nodes.Block) or node.find(nodes.Block) is not None]
    first = [node for node in others if node not in last and not (isinstance(node, nodes.Output) and _is_comment(node))]
    end = nodes.Output([nodes.TemplateData("\n", lineno=1)], lineno=1)
    tree.body = [*first, end, *extends, *last] if any(node.find(nodes.TemplateData) for node in first) else [*first, *extends, *last]


def _is_comment(output: nodes.Output) -> bool:
    lines = [child.data.split("\n") if isinstance(child, nodes.TemplateData) else ["value"] for child in output.nodes]
    return all(not line.strip() or line.lstrip().startswith("#") for part in lines for line in part)
