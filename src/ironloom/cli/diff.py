"""``ironloom diff``: what differs between two configurations in meaning. Never imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from ironloom import config
from ironloom.cli.configuration import ConfigurationWords
from ironloom.cli.viewing import load, part, show
from ironloom.config import projects
from ironloom.errors import ConfigError


def diff(
    words: ConfigurationWords,
    target: Annotated[list[str] | None, typer.Option("--target", help="Compare this target only; repeatable.")] = None,
) -> None:
    """Compare two configurations, of any styles, by what they mean: one line for each difference.

    Overrides hold for both. Exit code 0: they are equal; 1: they differ; 2: one of them is wrong.

    Example: ironloom diff examples/quickstart.yaml output/quickstart/run.yaml
    """
    from ironloom.config import compare

    left, found = load(words, others=1, own=["--target"])
    if not found.others:
        raise ConfigError(f"which other configuration? Found {found.path!r} only")
    other = projects.choose(found.others[0])
    names = {option.dest for option in projects.declared(other, [])} if found.arguments else set()
    right = config.load(other, found.overrides, {name: value for name, value in found.arguments.items() if name in names})
    for name in target or ():
        if name not in left.root:
            part(right, name)
    differences = compare.differences(left, right, target)
    show("".join(f"{line}\n" for line in compare.report(differences)))
    if differences:
        raise typer.Exit(1)
