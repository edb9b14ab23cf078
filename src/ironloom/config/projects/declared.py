"""Reading the options that a configuration declares, before its values are known."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ironloom.config.graph import Graph
from ironloom.config.projects.options import Declarations, Option
from ironloom.config.projects.plain import PlainReader
from ironloom.config.projects.project import search_path
from ironloom.config.projects.words import guess
from ironloom.config.validate import in_order
from ironloom.errors import ConfigError, Problem

TARGET = "dynamic_args"


def declared(file: str | pathlib.Path, words: Sequence[str] = ()) -> list[Option]:
    """The options of the command line that a configuration declares; none for one that is no template.

    Args:
        file: The configuration.
        words: Words of the command line; a template that needs a value to render finds it there.

    Raises:
        ConfigError: With everything that is wrong with the declarations, or if the template cannot be rendered.
    """
    from ironloom import config
    from ironloom.config import templates

    if config.style(file) != "templates":
        return []
    search = search_path(file)
    try:
        rendered = templates.render(file, search)
    except ConfigError:
        guessed = guess(words)
        if not guessed:
            raise
        rendered = templates.render(file, search, guessed)
    reader = PlainReader(rendered)
    node = reader.document()
    if not isinstance(node, yaml.MappingNode):
        return []
    value = next((child for key, child in reversed(node.value) if key.value == TARGET), None)
    if value is None:
        return []
    entries = reader.plain(value, ())
    declarations = Declarations(reader.values.get)
    options = declarations.options(entries)
    problems = [*reader.problems, *declarations.problems]
    if problems:
        raise ConfigError(in_order(problems))
    return options


def check_declared(graph: Graph, arguments: Mapping[str, Any]) -> None:
    """Look at the options that a loaded configuration declares, and leave them out of its targets.

    Args:
        graph: The configuration.
        arguments: The values that were given.

    Raises:
        ConfigError: With everything that is wrong with the declarations, and the options that are needed and not given.
    """
    entries = graph.root.pop(TARGET, None)
    declarations = Declarations(lambda path: graph.origin((TARGET, *path)))
    problems = []
    for option in declarations.options(entries):
        if option.settings.get("required") and option.dest not in arguments:
            problems.append(Problem(f"the option {option.names[0]} is needed", TARGET, option.origin, option.help()[1]))
    problems += declarations.problems
    if problems:
        raise ConfigError(in_order(problems))
    for table in (graph.origins, graph.earlier):
        for path in [path for path in table if path[0] == TARGET]:
            del table[path]
