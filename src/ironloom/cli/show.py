"""``ironloom show``: the resolved configuration. Never imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, part
from ironloom.cli.viewing import show as show_text


def show(
    words: ConfigurationWords,
    as_tree: Annotated[bool, typer.Option("--tree", help="Show a tree in which every value has its place.")] = False,
) -> None:
    """Show what a configuration amounts to, as the text that run.yaml will be. A target's name shows that part alone.

    Example: ironloom show examples/quickstart.yaml trainer_args
    """
    graph, found = load(words, others=1, own=["--tree"])
    chosen = part(graph, found.others[0] if found.others else None)
    if as_tree:
        from ironloom.config.views import tree

        show_text(tree.dump(chosen, origins=True))
    else:
        from ironloom.config import tagged

        show_text(tagged.dump(chosen))
