"""What several commands do with a configuration: find it among the words, load it, check it, write it."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from ironloom import config
from ironloom.atomic import write_bytes_atomic
from ironloom.config import projects, tagged
from ironloom.config.graph import Graph, Node
from ironloom.config.overrides import is_override
from ironloom.environment import environment
from ironloom.errors import ConfigError, Problem, ResourceError
from ironloom.parallel import fits
from ironloom.settings.base import nearest
from ironloom.settings.dream.world import world_size
from ironloom.settings.training import TrainingArguments

RUN_FILE = "run.yaml"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

#: The words of a command on a configuration.
ConfigurationWords = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG [KEY=VALUE]... [OPTION]...",
        help="A file, a project's folder, or a configuration of the project here; overrides; options that the configuration declares.",
    ),
]


class Words(NamedTuple):
    """What the words of a command mean.

    Attributes:
        path: The configuration file.
        overrides: Words of the form ``key=value``.
        arguments: Values of the options that the configuration declares, those that were given.
        others: Further words, for commands that take some.
    """

    path: str
    overrides: list[str]
    arguments: dict[str, Any]
    others: list[str]


def split(words: Sequence[str], others: int = 0, own: Sequence[str] = ()) -> Words:
    """Tell the words of a command apart: the configuration, overrides and options, in any order.

    Args:
        words: What follows the command.
        others: How many further words the command takes after the configuration.
        own: Options of the command itself, to suggest where one is misspelt.

    Raises:
        ConfigError: If there is no configuration, or too many words; for an option that the configuration does not declare.
    """
    word = _configuration(words)
    path = projects.choose(word)
    rest = list(words)
    rest.remove(word)
    options = projects.declared(path, rest) if any(map(projects.is_option, rest)) else []
    arguments, rest = projects.take(rest, options, own)
    more = [other for other in rest if not is_override(other)]
    if len(more) > others:
        found = ", ".join(map(repr, [word, *more[others:]]))
        raise ConfigError(f"one configuration at a time, found {found}; an override has the form key=value")
    return Words(path, [other for other in rest if is_override(other)], arguments, more)


def _configuration(words: Sequence[str]) -> str:
    """The word that names the configuration."""
    plain = [index for index, word in enumerate(words) if not projects.is_option(word) and not is_override(word)]
    # What follows an option may be its value: it is meant where nothing else is.
    free = [index for index in plain if index == 0 or not projects.is_option(words[index - 1]) or "=" in words[index - 1]]
    for index in (*free, *plain):
        if pathlib.Path(words[index].rpartition(".py:")[0] + ".py" if ".py:" in words[index] else words[index]).exists():
            return words[index]
    for index in (*free, *plain):
        return words[index]
    # A file may be called like an override; it is meant where nothing else is.
    for word in words:
        if pathlib.Path(word).is_file():
            return word
    raise ConfigError("which configuration? Give a file, for example examples/quickstart.yaml")


class ConfiguredCommand(TyperCommand):
    """A command on a configuration: takes the options that the configuration declares, and lists them in its help."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.context_settings = {**self.context_settings, "ignore_unknown_options": True}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and keep the words for the help."""
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The command's own options, then those of the configuration among the words."""
        super().format_options(ctx, formatter)
        words = [word for word in ctx.meta.get(__name__, ()) if word not in ctx.help_option_names]
        if not any(not projects.is_option(word) for word in words):
            return
        try:
            path = projects.choose(_configuration(words))
            options = projects.declared(path, words)
        except ConfigError as error:
            formatter.write_paragraph()
            formatter.write_text(f"The options of the configuration cannot be read: {error}")
            return
        if options:
            with formatter.section(f"Options of {path}"):
                formatter.write_dl([option.help() for option in options])


@contextlib.contextmanager
def as_processes(world: int | None, local: int | None = None) -> Iterator[None]:
    """Within the block the environment is that of a launcher of so many processes; None: it is left as it is.

    Args:
        world: Processes in all.
        local: Processes on this machine; None: all of them.
    """
    if world is None:
        yield
        return
    numbers = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local or world)}
    with environment(numbers):
        yield


def load_checked(path: str, overrides: Sequence[str], arguments: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a configuration in which no mistake can be seen. What is hardly meant is told on stderr.

    Raises:
        ConfigError: With every problem.
    """
    graph = config.load(path, overrides, arguments or {})
    for warning in graph.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    problems = [*config.check(graph), *_level_problems(graph)]
    problems = problems or fits.problems(graph, world_size())
    if problems:
        raise ConfigError(problems)
    return graph


def _level_problems(graph: Graph) -> Iterator[Problem]:
    """What is wrong with the least level of messages shown."""
    level = graph.root.get("log_level", "INFO")
    if level not in LEVELS:
        near = nearest(str(level).upper(), LEVELS)
        message = f"expected one of {', '.join(LEVELS)}, found {level!r}"
        yield Problem(message, "log_level", graph.origin(("log_level",)), f"did you mean {near!r}?" if near else "")


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
