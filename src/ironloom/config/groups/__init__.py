"""Grouped configurations: one YAML file with eight groups, each inline or the name of a preset."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

from ironloom.config import source
from ironloom.config.graph import Graph
from ironloom.config.groups.assemble import assemble
from ironloom.config.groups.read import gather
from ironloom.config.groups.rules import validate


def load(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Graph:
    """The graph of a grouped configuration.

    Args:
        path: The file.
        overrides: ``group.key=value`` texts from the command line.

    Raises:
        ConfigError: With every problem of the file, its presets and the overrides, each with its
            place and the nearest valid key.
    """
    found = gather(path, source.read_text(path), overrides, os.environ)
    return assemble(validate(found, os.environ), found)
