"""``ironloom schema``: JSON Schema of configuration files. Never imports torch."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ironloom.cli.viewing import show


class Kind(Enum):
    """Which files a schema is about."""

    groups = "groups"
    run = "run"
    tags = "tags"


def schema(
    kind: Annotated[Kind, typer.Argument(help="groups; run for run.yaml; tags: the tags that an editor must know.")] = Kind.groups,
) -> None:
    """Write a JSON Schema on standard output, for completion and checks in an editor.

    Example: ironloom schema groups > ironloom.schema.json
    """
    import json

    from ironloom.config import schema as schemas

    made = {Kind.groups: schemas.groups_schema, Kind.run: schemas.run_schema, Kind.tags: schemas.tags}[kind]()
    show(json.dumps(made, indent=2) + "\n")
