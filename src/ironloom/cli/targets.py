"""``ironloom targets``: the names of what a configuration describes. Never imports torch."""

from __future__ import annotations

from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, show


def targets(words: ConfigurationWords) -> None:
    """List the targets of a configuration, one to a line; `main` is the run.

    Example: ironloom targets examples/quickstart.yaml
    """
    graph, _ = load(words)
    show("".join(f"{name}\n" for name in graph.root))
