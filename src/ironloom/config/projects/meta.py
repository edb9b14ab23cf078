"""``meta.yaml``: what a project says of itself. Owns its keys; the file is a template like any other."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

from ironloom.config import scalars, source
from ironloom.config.projects.plain import PlainReader
from ironloom.config.validate import in_order
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import unknown_key

META = "meta.yaml"
WORKSPACES = ("ironloom_workspace", "forgather_workspace")
LIBRARY = pathlib.Path(__file__).parents[2] / "library" / "templates"

_TEXTS = ("name", "description", "config_prefix", "default_config")
_FOLDERS = ("searchdir", "system_path")


@dataclass(frozen=True)
class Meta:
    """The content of a ``meta.yaml``.

    Attributes:
        folder: The project, absolute.
        workspace: The folder of templates that projects around it share, or None.
        name: What the project is called.
        description: One line about it.
        searchdir: Where its templates are, in order.
        config_prefix: The folder of configurations in each of these.
        default_config: The configuration that the project stands for; None: the first.
        system_path: Folders of Python modules that its configurations name.
        origins: Where each key stands.
    """

    folder: pathlib.Path
    workspace: pathlib.Path | None
    name: str
    description: str
    searchdir: tuple[pathlib.Path, ...]
    config_prefix: str
    default_config: str | None
    system_path: tuple[pathlib.Path, ...]
    origins: dict[str, Origin]


def workspace_of(folder: pathlib.Path) -> pathlib.Path | None:
    """The workspace folder in the nearest ancestor that has one."""
    for ancestor in (folder, *folder.parents):
        for name in WORKSPACES:
            if (ancestor / name).is_dir():
                return ancestor / name
    return None


def read_meta(folder: pathlib.Path) -> Meta:
    """Read the ``meta.yaml`` of a project.

    Raises:
        ConfigError: With every key that is unknown, of the wrong kind, or names a folder that does not exist.
    """
    from ironloom.config.templates.render import render

    folder = folder.resolve()
    workspace = workspace_of(folder)
    search = [folder, *([workspace] if workspace else []), LIBRARY]
    reader = PlainReader(render(folder / META, search))
    node = reader.document()
    if node is None:
        values: dict[Any, Any] = {}
    elif node.tag != scalars.MAP:
        raise ConfigError(Problem("expected a mapping of keys such as name", origin=reader.origin(node)))
    else:
        values = reader.plain(node, ())
    checked = _Checked(folder, values, reader)
    meta = Meta(
        folder=folder,
        workspace=workspace,
        name=checked.text("name") or folder.name,
        description=checked.text("description") or "",
        searchdir=checked.folders("searchdir", default="templates"),
        config_prefix=checked.text("config_prefix", default="configs") or "",
        default_config=checked.text("default_config"),
        system_path=checked.folders("system_path"),
        origins={str(path[0]): origin for path, origin in reader.values.items() if len(path) == 1},
    )
    if reader.problems:
        raise ConfigError(in_order(reader.problems))
    return meta


class _Checked:
    """Values of ``meta.yaml`` one by one; what is wrong goes to the reader's problems."""

    def __init__(self, folder: pathlib.Path, values: dict[Any, Any], reader: source.Reader):
        self._folder = folder
        self._values = values
        self._reader = reader
        for key in values:
            if key not in (*_TEXTS, *_FOLDERS):
                problem = unknown_key(str(key), (*_TEXTS, *_FOLDERS), owner=META)
                self._wrong(problem.message, key, hint=problem.hint)

    def text(self, key: str, default: str | None = None) -> str | None:
        """A key that holds a text."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self._wrong(f"expected a text, found {value!r}", key)
            return default
        return value

    def folders(self, key: str, default: str | None = None) -> tuple[pathlib.Path, ...]:
        """A key that holds folders, relative to the project; those that are given must exist."""
        value = self._values.get(key)
        if value is None:
            return (self._folder / default,) if default and (self._folder / default).is_dir() else ()
        listed = value if isinstance(value, list) else [value]
        found = []
        for index, entry in enumerate(listed):
            place = (key, index) if isinstance(value, list) else (key,)
            if not isinstance(entry, str):
                self._wrong(f"expected a folder, found {entry!r}", *place)
            elif not (self._folder / entry).is_dir():
                self._wrong(f"there is no folder {entry!r}", *place, hint=f"it is looked up in {self._folder}")
            else:
                found.append((self._folder / entry).resolve())
        return tuple(dict.fromkeys(found))

    def _wrong(self, message: str, *path: str | int, hint: str = "") -> None:
        origin = self._reader.values.get(path) or self._reader.values.get(path[:1])
        self._reader.problems.append(Problem(message, ".".join(map(str, path)), origin, hint))
