"""``ironloom ls``: the configurations of projects and folders. Never imports torch."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from ironloom.cli.viewing import show
from ironloom.errors import ConfigError


def ls(
    folders: Annotated[list[pathlib.Path] | None, typer.Argument(help="Projects or folders; the current one by default.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look for projects in all folders below.")] = False,
) -> None:
    """List configurations with one line about each; a project's default stands in brackets.

    Example: ironloom ls examples
    """
    from ironloom.config import listing

    places = folders or [pathlib.Path()]
    for folder in places:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {str(folder)!r}")
    if recursive:
        places = [found for folder in places for found in listing.projects_below(folder)]
    texts = [listing.listing(folder) for folder in places]
    show("\n".join("".join(f"{line}\n" for line in lines) for lines in texts))
