"""``ironloom code``: the configuration as a Python program. Never imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, one_of, show


def code(
    words: ConfigurationWords,
    target: Annotated[str | None, typer.Option("--target", help="What to build; main, the run, by default.")] = None,
) -> None:
    """Show a configuration as a Python program whose construct() builds the same objects.

    Example: ironloom code examples/quickstart.yaml --target trainer_args
    """
    from ironloom.config.views import python

    graph, found = load(words, others=1, own=["--target"])
    show(python.dump(graph, one_of(found.others, target) or "main"))
