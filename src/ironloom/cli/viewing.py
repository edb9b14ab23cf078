"""What the commands that show a configuration have in common: load it, choose a part, print text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from ironloom import config
from ironloom.cli.configuration import Words, split
from ironloom.config.graph import Graph
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest


def load(words: Sequence[str], others: int = 0, own: Sequence[str] = ()) -> tuple[Graph, Words]:
    """The graph of the configuration among the words of a command, and what the words mean.

    Raises:
        ConfigError: For a configuration that cannot be loaded. What only ``check`` sees is let pass: it can be shown.
    """
    found = split(words, others, own)
    return config.load(found.path, found.overrides, found.arguments), found


def part(graph: Graph, name: str | None) -> Graph:
    """The graph with one target only; with all for None.

    Raises:
        ConfigError: If there is no such target.
    """
    if name is None:
        return graph
    if name not in graph.root:
        near = nearest(name, graph.root)
        hint = f"did you mean {near!r}?" if near else "targets: " + ", ".join(map(str, graph.root))
        raise ConfigError(Problem("no such target in the configuration", path=name, hint=hint))
    return dataclasses.replace(graph, root={name: graph.root[name]})


def one_of(word: Sequence[str], option: str | None) -> str | None:
    """The target that a command is about, given as a word or as ``--target``.

    Raises:
        ConfigError: If both are given and differ.
    """
    given = {*word, *([option] if option is not None else [])}
    if len(given) > 1:
        raise ConfigError(f"one target at a time, found {' and '.join(map(repr, sorted(given)))}")
    return next(iter(given), None)


def show(text: str) -> None:
    """Print text that ends with a line break already, whatever characters are in it."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
