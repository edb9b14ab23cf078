"""Projects: a folder with a ``meta.yaml``, its configurations and where its templates are found."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass

from ironloom.config.projects.meta import LIBRARY, META, Meta, read_meta, workspace_of
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest

SUFFIXES = (".yaml", ".yml", ".py")


@dataclass(frozen=True)
class Project:
    """A project as its ``meta.yaml`` describes it.

    Attributes:
        folder: Where it is, absolute.
        name: What it is called.
        description: One line about it.
        search_path: Where its templates are found: its own folders, the workspace, the library.
        configs: Its configurations: the name below ``prefix``, and the file.
        default: The configuration that the project stands for; None if it has none.
        prefix: The folder of configurations in each of its own folders.
        workspace: The folder of templates that projects around it share, or None.
        system_path: Folders of Python modules that its configurations name.
    """

    folder: pathlib.Path
    name: str
    description: str
    search_path: list[pathlib.Path]
    configs: dict[str, pathlib.Path]
    default: str | None
    prefix: str
    workspace: pathlib.Path | None
    system_path: list[pathlib.Path]

    def config(self, name: str | None = None) -> pathlib.Path:
        """The file of a configuration, by its name with or without the suffix; without a name, the default.

        Raises:
            ConfigError: If the project has no such configuration.
        """
        where = Origin(str(self.folder / META))
        if name is None:
            if self.default is None:
                hint = f"they are looked for in {self.prefix!r} of its template folders"
                raise ConfigError(Problem(f"the project {self.name!r} has no configuration", origin=where, hint=hint))
            return self.configs[self.default]
        for candidate in (name, *(f"{name}{suffix}" for suffix in SUFFIXES)):
            if candidate in self.configs:
                return self.configs[candidate]
        message = f"the project {self.name!r} has no configuration {name!r}"
        raise ConfigError(Problem(message, origin=where, hint=near_configs(name, self.configs)))


def find(start: pathlib.Path | str) -> Project | None:
    """The project that a file or folder belongs to: the nearest ancestor with a ``meta.yaml``.

    Raises:
        ConfigError: If that ``meta.yaml`` is wrong.
    """
    folder = folder_of(start)
    return None if folder is None else read(folder)


def folder_of(start: pathlib.Path | str) -> pathlib.Path | None:
    """The folder of the project that a file or folder belongs to."""
    start = pathlib.Path(start).resolve()
    folders = (start, *start.parents) if start.is_dir() else start.parents
    return next((folder for folder in folders if (folder / META).is_file()), None)


def read(folder: pathlib.Path) -> Project:
    """The project of a folder that has a ``meta.yaml``.

    Raises:
        ConfigError: If that file is wrong.
    """
    meta = read_meta(folder)
    shared = [meta.workspace] if meta.workspace else []
    configs = _configs(meta)
    return Project(
        folder=meta.folder,
        name=meta.name,
        description=meta.description,
        search_path=list(dict.fromkeys([*meta.searchdir, *shared, LIBRARY])),
        configs=configs,
        default=_default(meta, configs),
        prefix=meta.config_prefix,
        workspace=meta.workspace,
        system_path=list(meta.system_path),
    )


def search_path(file: pathlib.Path | str) -> list[pathlib.Path]:
    """Where the templates that a configuration names are found, the library last.

    The folders of its project come first, then its own folder and the workspace; outside a project its own folder and
    the workspace.

    Raises:
        ConfigError: If the ``meta.yaml`` of its project is wrong.
    """
    file = pathlib.Path(file).resolve()
    folder = folder_of(file)
    meta = None if folder is None else read_meta(folder)
    workspace = workspace_of(file.parent) if meta is None else meta.workspace
    own = meta.searchdir if meta is not None else ()
    return list(dict.fromkeys([*own, file.parent, *([workspace] if workspace else []), LIBRARY]))


def _configs(meta: Meta) -> dict[str, pathlib.Path]:
    """Configurations by name; of two with one name the first folder's is meant, as for every template."""
    found: dict[str, pathlib.Path] = {}
    for searched in meta.searchdir:
        root = searched / meta.config_prefix
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if name.endswith(SUFFIXES) and not name.startswith("."):
                    file = pathlib.Path(folder, name)
                    found.setdefault(file.relative_to(root).as_posix(), file)
    return dict(sorted(found.items()))


def _default(meta: Meta, configs: dict[str, pathlib.Path]) -> str | None:
    if meta.default_config is None:
        return next(iter(configs), None)
    if meta.default_config not in configs:
        message = f"the project has no configuration {meta.default_config!r}"
        hint = near_configs(meta.default_config, configs)
        raise ConfigError(Problem(message, "default_config", meta.origins.get("default_config"), hint))
    return meta.default_config


def near_configs(name: str, configs: dict[str, pathlib.Path]) -> str:
    """A hint with the name that is meant, or with all of them."""
    near = nearest(name, configs) or nearest(name, {pathlib.PurePosixPath(known).stem: None for known in configs})
    if near is not None:
        return f"did you mean {near!r}?"
    return "it has " + ", ".join(configs) if configs else "it has none"
