"""What several commands do with a configuration: find it among the words, load it, check it, write it."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from ironloom import config
from ironloom.atomic import write_bytes_atomic
from ironloom.config import tagged
from ironloom.config.graph import Graph, Node
from ironloom.config.overrides import is_override
from ironloom.errors import ConfigError, ResourceError
from ironloom.settings.training import TrainingArguments

RUN_FILE = "run.yaml"


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The configuration file and the overrides among the words of a command, in any order.

    Raises:
        ConfigError: If there is no file, or more than one.
    """
    files = [word for word in words if not is_override(word)]
    if not files:
        # A file may be called like an override; it is meant where nothing else is.
        files = [word for word in words if pathlib.Path(word).is_file()][:1]
    if not files:
        raise ConfigError("which configuration? Give a file, for example examples/quickstart.yaml")
    if len(files) > 1:
        raise ConfigError(f"one configuration at a time, found {', '.join(map(repr, files))}; an override has the form key=value")
    return files[0], [word for word in words if word != files[0]]


def load_checked(path: str, overrides: Sequence[str]) -> Graph:
    """The graph of a configuration in which no mistake can be seen.

    Raises:
        ConfigError: With every problem.
    """
    graph = config.load(path, overrides)
    problems = config.check(graph)
    if problems:
        raise ConfigError(problems)
    return graph


def arguments_of(graph: Graph) -> dict[str, Any]:
    """The trainer's arguments in a graph, as the mapping that can be changed there; empty if it has none."""
    main = graph.root.get("main")
    args = main.kwargs.get("args") if isinstance(main, Node) else None
    if isinstance(args, Node):
        return args.kwargs
    return args if isinstance(args, dict) else {}


def output_dir(graph: Graph) -> pathlib.Path:
    """The folder of the run."""
    return pathlib.Path(arguments_of(graph).get("output_dir", TrainingArguments.output_dir))


def write_run(graph: Graph, folder: pathlib.Path) -> pathlib.Path:
    """Write the resolved configuration to ``folder/run.yaml``, whole or not at all.

    Raises:
        ResourceError: If the folder cannot be written.
    """
    file = folder / RUN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(file, tagged.dump(graph).encode())
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from error
    return file
