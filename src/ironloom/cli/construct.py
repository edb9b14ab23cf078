"""``ironloom construct``: build a part of a configuration and show the object."""

from __future__ import annotations

from typing import Annotated

import typer

from ironloom import config
from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, one_of, show
from ironloom.errors import ConfigError


def construct(
    words: ConfigurationWords,
    target: Annotated[str | None, typer.Option("--target", help="What to build; main, the run, by default.")] = None,
) -> None:
    """Build a target of a configuration and show the object. Only what that target needs is imported.

    Example: ironloom construct examples/quickstart.yaml --target trainer_args
    """
    import pprint

    graph, found = load(words, others=1, own=["--target"])
    problems = config.check(graph)
    if problems:
        raise ConfigError(problems)
    show(pprint.pformat(config.build(graph, one_of(found.others, target) or "main"), sort_dicts=False, width=100) + "\n")
