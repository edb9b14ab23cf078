"""Which configuration a word of the command line means: a file, a project's folder, or a name in a project."""

from __future__ import annotations

import pathlib

from ironloom.config.projects.meta import META
from ironloom.config.projects.project import Project, find, near_configs, read
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest


def choose(word: str | None, folder: str | pathlib.Path = ".") -> str:
    """The configuration file that ``word`` means.

    Args:
        word: A file; ``file.py:name``; the folder of a project, which stands for its default configuration; or the name of
            a configuration of the project around ``folder``. None: the default configuration of that project.
        folder: Where the word is said: files are relative to it.

    Raises:
        ConfigError: If there is no such configuration; names the nearest one.
    """
    base = pathlib.Path(folder)
    if word is None:
        project = find(base)
        if project is None:
            raise ConfigError("which configuration? Give a file, for example examples/quickstart.yaml")
        return _shown(project.config(), base)
    file, colon, name = word.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{choose(file, folder)}:{name}"
    path = base / word
    if path.is_dir():
        return _shown(_project_in(path).config(), base)
    if path.is_file() or pathlib.Path(word).is_absolute():
        return str(path)
    project = find(base)
    if project is None:
        return str(path)  # reading it says that there is no such file, and names its neighbours
    try:
        return _shown(project.config(word), base)
    except ConfigError:
        raise ConfigError(_missing(word, path, project)) from None


def _project_in(folder: pathlib.Path) -> Project:
    if (folder / META).is_file():
        return read(folder)
    inside = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    hint = f"it holds {', '.join(inside[:5])}" if inside else f"the folder of a project has a {META}"
    raise ConfigError(Problem("is a folder, not a configuration file", origin=Origin(str(folder)), hint=hint))


def _missing(word: str, path: pathlib.Path, project: Project) -> Problem:
    neighbours = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = nearest(path.name, neighbours)
    hint = f"did you mean {str(path.with_name(near))!r}?" if near else near_configs(word, project.configs)
    message = f"there is no such file, and no such configuration in the project {project.name!r}"
    return Problem(message, origin=Origin(word), hint=hint)


def _shown(file: pathlib.Path, base: pathlib.Path) -> str:
    """A file as people write it: relative to where they are, if it lies below."""
    here = base.resolve()
    return str(base / file.relative_to(here)) if file.is_relative_to(here) else str(file)
