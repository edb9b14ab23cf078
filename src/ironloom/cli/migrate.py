"""``ironloom migrate``: from another tool's configuration to one of ours. Never imports torch."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from ironloom.cli.viewing import show


def migrate(
    file: Annotated[pathlib.Path, typer.Argument(help="transformers.TrainingArguments as JSON, or an older file of ours.")],
) -> None:
    """Write a configuration in groups that means the same; what has no counterpart is listed in its comments.

    Example: ironloom migrate training_args.json > run.yaml
    """
    from ironloom.config.migrate import migrate as migrated

    show(migrated(file).text())
