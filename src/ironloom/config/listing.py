"""What configurations there are in a folder or project, with one line about each."""

from __future__ import annotations

import ast
import os
import pathlib
import re
from collections.abc import Iterator

from ironloom import config
from ironloom.config import projects, source
from ironloom.config.projects.meta import META
from ironloom.config.views.tree import headline
from ironloom.errors import ConfigError

_SUFFIXES = (".yaml", ".yml")


def projects_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Folders of projects below a folder, in order of name; hidden ones are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if META in files:
            yield pathlib.Path(place)


def listing(folder: pathlib.Path) -> list[str]:
    """The lines about a folder: the project's name and description if it is one, then its configurations.

    Raises:
        ConfigError: If its ``meta.yaml`` is wrong.
    """
    if (folder / META).is_file():
        project = projects.read(folder)
        heading = [f"{project.name}: {project.description}" if project.description else project.name]
        files, default = project.configs, project.default
    else:
        heading, default = [], None
        files = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.suffix in _SUFFIXES and entry.is_file()}
    names = {name: f"[{name}]" if name == default else name for name in files}
    width = max(map(len, names.values()), default=0)
    rows = [f"{shown:<{width}}  {describe(files[name])}".rstrip() for name, shown in names.items()]
    return [*heading, *(f"  {row}" if heading else row for row in rows)]


def describe(file: pathlib.Path) -> str:
    """One line about a configuration: what it says of itself, or why it cannot be loaded."""
    try:
        if file.suffix == ".py":
            return _first_line(ast.get_docstring(ast.parse(source.read_text(file))) or "")
        meta = config.load(file).root.get("meta")
    except ConfigError as error:
        return f"PARSE ERROR: {error.problems[0]}"
    except SyntaxError as error:
        return f"PARSE ERROR: {file}:{error.lineno}: {error.msg}"
    if isinstance(meta, dict):
        said = [meta.get(f"config_{key}") or meta.get(key) for key in ("name", "description")]
        return ": ".join(headline(part) if not isinstance(part, str) else part for part in said if part)
    return _comment(source.read_text(file))


def _comment(text: str) -> str:
    """The first line of the comment that a file begins with."""
    found = re.match(r"\s*#+[ \t]*(.+)", text)
    return found[1].strip() if found else ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
