"""Plain data out of a rendered template: what ``meta.yaml`` and declared options are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

from ironloom.config import scalars, source
from ironloom.config.graph import Path
from ironloom.errors import ConfigError, Origin

if TYPE_CHECKING:
    from ironloom.config.templates import Rendered

_CONTAINERS = {"list": scalars.SEQ, "tuple": scalars.SEQ, "dlist": scalars.MAP, "dict": scalars.MAP}


class PlainReader(source.Reader):
    """Reads YAML that templates wrote; places are those in the templates.

    Of a key given twice the last one counts, as a block that calls ``super()`` has it.
    """

    def __init__(self, rendered: Rendered):
        super().__init__(rendered.origins[0].source)
        self._text = rendered.text
        self._origins = rendered.origins

    def document(self) -> yaml.Node | None:
        """The YAML document; None if there is nothing in it.

        Raises:
            ConfigError: For a syntax error, with the line of the template that wrote it.
        """
        try:
            return source.compose(self._text, self.source)
        except ConfigError as error:
            raise ConfigError([dataclasses.replace(problem, origin=self._place(problem.origin)) for problem in error.problems]) from None

    def _place(self, origin: Origin | None) -> Origin | None:
        """The template line of a place in the rendered text."""
        if origin is None or origin.line is None:
            return origin
        return self._origins[min(origin.line, len(self._origins)) - 1]

    def origin(self, node: yaml.Node) -> Origin:
        """The template line in which a node begins."""
        return self._origins[node.start_mark.line]

    def plain(self, node: yaml.Node, path: Path, inside: tuple[int, ...] = ()) -> Any:
        """The value of a node; the tags of containers mean nothing here."""
        kind = node.tag[1:].partition(":")[0] if node.tag.startswith("!") else ""
        if kind in _CONTAINERS and isinstance(node, yaml.CollectionNode):
            node.tag = _CONTAINERS[kind]
        return super().plain(node, path, inside)

    def items(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[Any, yaml.Node]]:
        """Keys and value nodes of a mapping; of a key given twice the last one."""
        last: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for number, (key, value) in enumerate(node.value):
            name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != scalars.MERGE else f"{number}\0"
            last[name] = (key, value)
        node.value = list(last.values())
        yield from super().items(node, path)
