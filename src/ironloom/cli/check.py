"""``ironloom check``: look for mistakes in a configuration. Never imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from ironloom.cli.configuration import ConfigurationWords, as_processes, load_checked, split
from ironloom.config.prepared import missing_files
from ironloom.config.summary import summary
from ironloom.errors import DataError


def check(
    words: ConfigurationWords,
    nproc: Annotated[int | None, typer.Option("--nproc", min=1, help="Check for a run of so many processes.")] = None,
) -> None:
    """Look for mistakes in a configuration, without running it.

    Exit code 0: none; 2: all of them are printed, with their places; 3: files of data are missing.

    Example: ironloom check examples/quickstart.yaml optim.max_lr=1e-3
    """
    path, overrides, arguments, _ = split(words, own=("--nproc",))
    with as_processes(nproc):
        graph = load_checked(path, overrides, arguments)
        line = summary(graph)
    missing = list(missing_files(graph))
    if missing:
        raise DataError("\n".join(map(str, missing)))
    print(f"{path}: ok")
    if line:
        print(line)
