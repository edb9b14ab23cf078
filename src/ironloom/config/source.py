"""Reading configuration files: from bytes to YAML nodes, to plain values with their places.

Every mistake is a :class:`ConfigError` that names file, line and column. Knows no keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from ironloom.config import scalars, secrets
from ironloom.config.graph import Path
from ironloom.errors import ConfigError, Origin, Problem


def read_text(path: str | pathlib.Path) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: If it does not exist, cannot be read, is empty or is not UTF-8 text.
    """
    file = pathlib.Path(path)
    where = Origin(str(path))
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", origin=where, hint=_neighbours(file))) from None
    except IsADirectoryError:
        raise ConfigError(Problem("is a folder, not a configuration file", origin=where, hint=_inside(file))) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", origin=where)) from None
    if b"\0" in data:
        raise ConfigError(Problem("is a binary file, not a configuration", origin=where))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError(Problem("is not UTF-8 text", origin=Origin(str(path), line, column))) from None
    if not text.strip():
        raise ConfigError(Problem("is empty", origin=where, hint="a run needs at least data.train_datasets"))
    return text


def _neighbours(file: pathlib.Path) -> str:
    if not file.parent.is_dir():
        return f"there is no folder {str(file.parent)!r} either"
    names = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
    near = difflib.get_close_matches(file.name, names, n=1)
    return f"did you mean {str(file.with_name(near[0]))!r}?" if near else ""


def _inside(folder: pathlib.Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    return f"it holds {', '.join(names[:5])}" if names else ""


class Loader(yaml.SafeLoader):
    """PyYAML's loader with the scalar rules of :mod:`ironloom.config.scalars`."""

    yaml_implicit_resolvers = scalars.resolvers()


def compose(text: str, source: str, loader: Callable[[str], Loader] = Loader) -> yaml.Node | None:
    """The YAML nodes of ``text``, with their marks; None if there is nothing but comments.

    Raises:
        ConfigError: For a syntax error, with line and column in ``source``.
    """
    try:
        return yaml.compose(text, cast(Any, loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = Origin(source, mark.line + 1, mark.column + 1) if mark else Origin(source)
        context = f" ({error.context})" if error.context else ""
        hint = _REFERENCE_HINT if mark and _holds_reference(text, mark.line) else ""
        raise ConfigError(Problem(f"is not valid YAML: {error.problem}{context}", origin=origin, hint=hint)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        message = f"is not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        raise ConfigError(Problem(message, origin=Origin(source, line, column))) from None
    except RecursionError:
        raise ConfigError(Problem("is nested too deeply", origin=Origin(source))) from None


_REFERENCE_HINT = "a reference ${NAME} stands alone on its line or in quotes, not bare inside {...} or [...]"


def _holds_reference(text: str, line: int) -> bool:
    """Whether a flow collection in a line or the one above holds a bare reference."""
    lines = text.splitlines()[max(line - 1, 0) : line + 1]
    return any(re.search(r"[{\[][^'\"]*\$\{", part) for part in lines)


@dataclass
class Reader:
    """Turns YAML nodes into plain values and notes where each one stands.

    Attributes:
        source: Name of the file for origins.
        route: Route for origins.
        environment: Variables that ``${NAME}`` in a scalar stands for; None: such a text is plain.
        values: Origin of each value by path.
        keys: Origin of each key of a mapping by the path of its value.
        problems: What is wrong so far.
        secrets: For each scalar that refers to a secret its text, and whether it is read as a YAML scalar.
    """

    source: str
    route: str = "file"
    values: dict[Path, Origin] = field(default_factory=dict)
    keys: dict[Path, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    environment: Mapping[str, str] | None = None
    secrets: dict[Path, tuple[str, bool]] = field(default_factory=dict)

    def origin(self, node: yaml.Node) -> Origin:
        """Where a YAML node begins."""
        return Origin(self.source, node.start_mark.line + 1, node.start_mark.column + 1, self.route)

    def plain(self, node: yaml.Node, path: Path, inside: tuple[int, ...] = ()) -> Any:
        """The value of a node without tags of our own; wrong parts become problems and None."""
        self.values[path] = self.origin(node)
        if id(node) in inside:
            return self.wrong(node, path, "contains itself")
        inside = (*inside, id(node))
        if isinstance(node, yaml.SequenceNode) and node.tag == scalars.SEQ:
            return [self.plain(child, (*path, index), inside) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == scalars.MAP:
            return {key: self.plain(child, (*path, key), inside) for key, child in self.items(node, path)}
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        return self.wrong(node, path, f"the tag {node.tag!r} has no meaning here")

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        """The value of a scalar node."""
        if not node.tag.startswith("tag:yaml.org,2002:"):
            return self.wrong(node, path, f"the tag {node.tag!r} has no meaning here")
        if self.environment is not None and secrets.refers(node.value):
            return self._substituted(node, path, self.environment)
        return self._parsed(node, path)

    def _parsed(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return scalars.parse(node.value, node.tag)
        except ValueError as error:
            return self.wrong(node, path, str(error))

    def _substituted(self, node: yaml.ScalarNode, path: Path, environment: Mapping[str, str]) -> Any:
        """The value of a scalar with references: without quotes it is what its text is once they are replaced."""
        typed = node.tag == scalars.STR and node.style is None
        try:
            text = secrets.substitute(node.value, environment)
            value = scalars.plain(text) if typed else scalars.parse(text, node.tag)
        except ConfigError as error:
            for problem in error.problems:
                self.wrong(node, path, problem.message, problem.hint)
            return None
        except ValueError:
            return self.wrong(node, path, f"what {node.value!r} stands for is not of type {node.tag.rpartition(':')[2]}")
        self.values[path] = dataclasses.replace(self.origin(node), route="environment")
        if secrets.holds_secret(node.value, environment):
            self.secrets[path] = (node.value, typed)
        return value

    def items(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[Any, yaml.Node]]:
        """Keys and value nodes of a mapping, merge keys (``<<``) resolved; a key given twice is a problem."""
        merged: dict[Any, yaml.Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == scalars.MERGE:
                for part in self._merged(node, value_node, path):
                    for key, child in self.items(part, path):
                        merged.setdefault(key, child)
        own: dict[Any, yaml.Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == scalars.MERGE:
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.startswith("!"):
                self.wrong(key_node, path, "a key must be a plain text or number")
                continue
            key = self._parsed(key_node, path)
            if key in own and not self.may_repeat(key_node, (*path, key), own[key]):
                continue
            self.keys[(*path, key)] = self.origin(key_node)
            own[key] = value_node
        yield from {**{key: child for key, child in merged.items() if key not in own}, **own}.items()

    def may_repeat(self, key: yaml.Node, path: Path, before: yaml.Node) -> bool:
        """Whether a key may be given again, after the value ``before``: a problem, because one of the two would be lost."""
        self.wrong(key, path, f"the key stands here and in line {self.keys[path].line}", "keep one of them")
        return False

    def _merged(self, node: yaml.Node, value: yaml.Node, path: Path) -> list[yaml.MappingNode]:
        """The mappings that a merge key of ``node`` names; the first that has a key wins."""
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        good = [part for part in parts if isinstance(part, yaml.MappingNode) and not _holds(part, node)]
        if len(good) < len(parts):
            self.wrong(value, path, "<< takes another mapping or a list of them")
        return good

    def wrong(self, node: yaml.Node, path: Path, message: str, hint: str = "") -> None:
        """Note a problem at a node."""
        self.problems.append(Problem(message, ".".join(map(str, path)), self.origin(node), hint))


def _holds(outer: yaml.Node, wanted: yaml.Node) -> bool:
    """Whether ``wanted`` is ``outer`` or stands somewhere in it."""
    seen: set[int] = set()
    stack: list[Any] = [outer]
    while stack:
        node = stack.pop()
        if node is wanted:
            return True
        if isinstance(node, yaml.CollectionNode) and id(node) not in seen:
            seen.add(id(node))
            stack.extend(part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
    return False
