"""Rendered template text to a graph. What a place is called is the template's line, not the text's."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from ironloom.config import scalars, source
from ironloom.config.graph import Graph, Node, Path, Step, dotted
from ironloom.config.tagged.read import MODES, Reader, tag_of
from ironloom.config.templates import targets
from ironloom.config.templates.render import LINE_END, Rendered
from ironloom.config.templates.variables import secret
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

_CONTAINERS = ("list", "tuple", "dict", "dlist")
# An anchor, and what may stand between it and its node.
_ANCHOR = re.compile(r"&[\w-]+(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*")
# YAML takes what follows a tag without a space for a part of it.
_TAG_END = re.compile(r"![\w:./@-]+[],]")
_SPACE = "put a space between a tag and ',' or ']'"
_POSITION = re.compile(r"arg(\d+)")


class _Loader(source.Loader):
    """An anchor may be given again, as a key may.

    The last one counts, unless ``yields`` says for the lines of both that the later one is a default of the earlier.
    """

    def __init__(self, text: str, yields: Callable[[int, int], bool]):
        super().__init__(text)
        self._yields = yields

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; an anchor that is taken goes over to it, or it gives its own up."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if not isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            if self._yields(self.anchors[event.anchor].start_mark.line, event.start_mark.line):
                event.anchor = None
            else:
                del self.anchors[event.anchor]
        return super().compose_node(parent, index)


def read(rendered: Rendered, path: str | pathlib.Path, search: Sequence[str | pathlib.Path]) -> Graph:
    """The graph that rendered text describes; variables and calculations stay in it.

    Raises:
        ConfigError: With every problem of the text.
    """
    reader = _Reader(rendered, str(path), search)
    try:
        node = source.compose(rendered.text, str(path), lambda text: _Loader(text, reader.is_default))
    except ConfigError as error:
        raise ConfigError([reader.placed(problem) for problem in error.problems]) from None
    if node is None:
        where = Origin(str(path), 1, 1)
        raise ConfigError(Problem("the template gives an empty text", origin=where, hint="extend one of the library's templates"))
    graph = reader.graph(node)
    graph.earlier = reader.earlier
    graph.warnings = [*rendered.warnings, *reader.warnings]
    return graph


class _Reader(Reader):
    """The reader of tagged YAML with the tags and freedoms of templates."""

    modes = {**MODES, "singleton": "call", "lambda": "partial"}

    def __init__(self, rendered: Rendered, name: str, search: Sequence[str | pathlib.Path]):
        super().__init__(name)
        self._rendered = rendered
        self._search = search
        self._lines = LINE_END.split(rendered.text)
        self._files: dict[str, list[str]] = {}
        self._named: dict[str, yaml.Node] = {}
        self._repeated: set[int] = set()
        self.earlier: dict[Path, list[Step]] = {}
        self.warnings: list[Problem] = []

    # Places

    def origin(self, node: yaml.Node) -> Origin:
        """The template line that wrote the beginning of a YAML node."""
        line, column = node.start_mark.line, node.start_mark.column
        anchor = _ANCHOR.match(self._rendered.text, node.start_mark.index)
        if anchor is None:
            return self._origin(line, column)
        ends = list(LINE_END.finditer(anchor[0]))
        column = len(anchor[0]) - ends[-1].end() if ends else column + len(anchor[0])
        return self._origin(line + len(ends), column)

    def _origin(self, line: int, column: int) -> Origin:
        origins = self._rendered.origins
        origin = origins[min(line, len(origins) - 1)]
        text = self._lines[line] if line < len(self._lines) else ""
        written = self._file(origin.source)
        before = written[origin.line - 1] if origin.line is not None and origin.line <= len(written) else ""
        is_same = before[:column] == text[:column]
        return Origin(origin.source, origin.line, column + 1 if is_same else None, origin.route)

    def _file(self, name: str) -> list[str]:
        """The lines of a template file."""
        if name not in self._files:
            path = pathlib.Path(name)
            self._files[name] = LINE_END.split(source.read_text(path)) if path.is_file() else []
        return self._files[name]

    def placed(self, problem: Problem) -> Problem:
        """A problem of the text with the place in the template."""
        if problem.origin is None or problem.origin.line is None:
            return problem
        origin = self._origin(problem.origin.line - 1, (problem.origin.column or 1) - 1)
        alias = re.search(r"found undefined alias '([^']+)'", problem.message)
        near = nearest(alias[1], re.findall(r"&([\w-]+)", self._rendered.text)) if alias else None
        hint = f"did you mean '*{near}'?" if near else problem.hint
        if "parsing a flow" in problem.message and any(_TAG_END.search(line) for line in self._lines[: problem.origin.line]):
            hint = _SPACE
        return Problem(problem.message, problem.path, origin, hint)

    # Keys

    def root(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """The targets; keys that begin with a dot are definitions for others and no targets."""
        entries = list(self.items(node, ()))
        targets_found = {key: self.value(child, (key,)) for key, child in entries if not _is_definition(key)}
        places = dict(self.values)
        for key, child in entries:
            if _is_definition(key):
                self.value(child, (key,))
        self.values = places
        return targets_found

    def may_repeat(self, key: yaml.Node, path: Path, before: yaml.Node) -> bool:
        """A key may be given again, which is how a block overrides what ``super()`` wrote; the last one counts.

        A target that stands in front of its base template's wins over that.
        """
        is_default = self.is_default(before.start_mark.line, key.start_mark.line)
        is_kept = is_default and len(path) == 1
        if id(key) not in self._repeated and not is_kept and not _is_definition(path[-1]):
            self._repeated.add(id(key))
            self.earlier.setdefault(path, []).append(Step(_shown(before), self.origin(before)))
            if is_default:
                hint = "write == super() before it, or use a block of the template"
                message = f"has no effect: {self.origin(key)}, in a template that this one extends, sets it again"
                self.warnings.append(Problem(message, dotted(path), self.origin(before), hint))
        return not is_kept

    def is_default(self, before: int, after: int) -> bool:
        """Whether a later line of the text is by a template that the template of an earlier line extends."""
        origins = self._rendered.origins
        return origins[after].source in self._rendered.bases.get(origins[before].source, ())

    # Values

    def tags(self) -> list[str]:
        """The tags that have a meaning."""
        return [*super().tags(), *_CONTAINERS]

    def new(self, node: yaml.Node, path: Path) -> Any:
        """The value of a YAML node, containers with names included."""
        kind, rest = tag_of(node)
        kind, at, name = kind.partition("@")
        if kind in _CONTAINERS:
            return self._container(node, path, kind, rest or at + name)
        return super().new(node, path)

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        """The value of a scalar; one with a secret of the environment stays a reference to it."""
        value = super().scalar(node, path)
        return secret(value, self._rendered.secrets, self.origin(node))

    def _container(self, node: yaml.Node, path: Path, kind: str, rest: str) -> Any:
        at, name = rest[:1], rest[1:]
        if rest and (at != "@" or not re.fullmatch(r"[\w.\-]+", name)):
            return self.wrong(node, path, f"expected !{kind} or !{kind}:@name, found {node.tag!r}")
        self._name(node, path, name)
        if isinstance(node, yaml.ScalarNode) and scalars.plain(node.value) is None and node.style is None:
            return {"list": [], "tuple": (), "dict": {}, "dlist": []}[kind]
        if kind in ("list", "tuple") and isinstance(node, yaml.SequenceNode):
            made = self.sequence(node, path)
            return made if kind == "list" else tuple(made)
        if kind == "dict" and isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if kind == "dlist" and isinstance(node, yaml.MappingNode):
            entries = [child for _, child in self.items(node, path) if not _is_null(child)]
            return [self.value(child, (*path, index)) for index, child in enumerate(entries)]
        return self.wrong(node, path, f"!{kind} takes a {'mapping' if kind in ('dict', 'dlist') else 'list'}")

    def node(self, node: yaml.Node, path: Path, kind: str, spec: str) -> Any:
        """A node of the graph, whose target is written in any of the forms of templates."""
        written, _, name = spec.partition("@")
        if name and not re.fullmatch(r"[\w.\-]+", name):
            return self.wrong(node, path, f"{name!r} is no name: it has letters, digits, '_', '-' and '.'")
        self._name(node, path, name)
        try:
            target = targets.canonical(written, self.origin(node).source, self._search)
        except targets.WrongTargetError as error:
            return self.wrong(node, path, str(error), _SPACE if written[-1:] in (",", "]") else error.hint)
        args, kwargs = self.arguments(node, path)
        return Node(target, self.modes[kind], args, kwargs, name or None, self.origin(node))

    def arguments(self, node: yaml.Node, path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a node: a scalar is one, ``arg0``, ``arg1`` ... in a mapping are positions."""
        if isinstance(node, yaml.ScalarNode):
            if node.style is None and not node.value:
                return (), {}
            self.values[(*path, 0)] = self.origin(node)
            value = scalars.plain(node.value) if node.style is None else node.value
            return (secret(value, self._rendered.secrets, self.origin(node)),), {}
        if isinstance(node, yaml.MappingNode) and self.both(node, path) is None:
            entries = dict(self.items(node, path))
            places = {key: int(found[1]) for key in entries if isinstance(key, str) and (found := _POSITION.fullmatch(key))}
            if places:
                order = sorted(places, key=lambda key: places[key])
                args = tuple(self.value(entries[key], (*path, index)) for index, key in enumerate(order))
                rest = {key: self.value(child, (*path, key)) for key, child in entries.items() if key not in places}
                return args, rest
        return super().arguments(node, path)

    def is_plain_tag(self, node: yaml.Node) -> bool:
        """Whether a sequence or mapping is no more than that, a name aside."""
        kind, _ = tag_of(node)
        return super().is_plain_tag(node) or kind in ("list", "dict")

    def _name(self, node: yaml.Node, path: Path, name: str) -> None:
        """Note a name; one that something else has is a problem."""
        if name and self._named.setdefault(name, node) is not node:
            self.wrong(node, path, f"the name {name!r} is taken by {self.origin(self._named[name])}")

    def names_once(self, root: Any) -> None:
        """Names were looked at when they were read."""


def _is_definition(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(".")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == scalars.NULL


def _shown(node: yaml.Node) -> Any:
    """A value that another one replaced, as plain data or text."""
    if isinstance(node, yaml.ScalarNode) and not node.tag.startswith("!"):
        return scalars.plain(node.value) if node.style is None else node.value
    if isinstance(node, yaml.ScalarNode):
        return f"{node.tag} {node.value}".strip()
    return node.tag if node.tag.startswith("!") else "{...}" if isinstance(node, yaml.MappingNode) else "[...]"
