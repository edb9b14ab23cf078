"""Template files: where a template's name leads, and the inline documents of each file. Knows no Jinja.

A template has a key: its file, or ``file#name`` for an inline document. A name is looked up among the
documents of the file that uses it, then in the folders of the search path; the first that has it wins.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.config import source
from ironloom.config.templates.lines import documents

MISSING = "?"


@dataclass(frozen=True)
class Template:
    """A template.

    Attributes:
        key: What it is filed under.
        name: The name it was asked for.
        file: The file it stands in.
        line: The line of the file where it begins, from 1.
        text: Its text as written.
    """

    key: str
    name: str
    file: str
    line: int
    text: str


class Files:
    """The templates that one rendering has met.

    Args:
        main: The file that is rendered.
        search: Folders in which templates are found by name.
    """

    def __init__(self, main: str | pathlib.Path, search: Sequence[str | pathlib.Path]):
        self.main = str(main)
        self._search = [pathlib.Path(folder) for folder in search]
        self._templates: dict[str, Template] = {}

    def key(self, name: str, parent: str) -> str:
        """The key of what ``name`` means in the template ``parent``; begins with ``?`` if there is nothing."""
        file = self.get(parent).file
        if f"{file}#{name}" in self._templates:
            return f"{file}#{name}"
        if self._is_inside(name):
            for folder in self._search:
                if (folder / name).is_file():
                    found = str(folder / name)
                    if found not in self._templates:
                        self._read(found, name)
                    return found
        return MISSING + name

    def get(self, key: str) -> Template:
        """The template of a key.

        Raises:
            ConfigError: If its file cannot be read.
        """
        if key not in self._templates:
            self._read(key, pathlib.Path(key).name)
        return self._templates[key]

    def inline(self, file: str) -> list[Template]:
        """The inline documents of a file."""
        return [template for template in self._templates.values() if template.file == file and template.key != file]

    def known(self, parent: str) -> list[str]:
        """The names that lead somewhere from the template ``parent``."""
        names = [template.name for template in self.inline(self.get(parent).file)]
        for folder in self._search:
            found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
            names += [file.as_posix() for file in found if not any(part.startswith(".") for part in file.parts)]
        return names

    def _is_inside(self, name: str) -> bool:
        """Whether a name can only lead to something inside the folders of the search path."""
        path = pathlib.PurePath(name)
        return bool(name) and not path.is_absolute() and ".." not in path.parts

    def _read(self, file: str, name: str) -> None:
        path = pathlib.Path(file)
        text = source.read_text(path) if not path.is_file() or path.read_bytes().strip() else ""
        for document in documents(text):
            key = file if document.name is None else f"{file}#{document.name}"
            self._templates[key] = Template(key, document.name or name, file, document.line, document.text)
