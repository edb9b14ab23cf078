"""Finding and reading what a grouped configuration names: presets of its groups, and the file of ``data.config_path``."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ironloom.config import scalars, source
from ironloom.config.groups.gathered import Layer
from ironloom.config.validate import below
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest
from ironloom.settings.groups import GROUPS, PRESET

LIBRARY = pathlib.Path(__file__).parents[2] / "library"
SUFFIXES = (".yaml", ".yml")


@dataclass
class Presets:
    """Reads named files; what is wrong with them is noted in ``problems``.

    Attributes:
        environment: Variables that references stand for.
        problems: What is wrong so far.
    """

    environment: Mapping[str, str]
    problems: list[Problem]

    def layers(self, group: str, name: Any, where: Origin | None, chain: tuple[pathlib.Path, ...]) -> list[Layer]:
        """The layers of a preset, its own base first.

        Args:
            group: The group it is for.
            name: Its name.
            where: Where the name stands.
            chain: The files that led here, the last being the one that names it.
        """
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w .\-]*", name):
            hint = "a file is named by data.config_path" if group == "data" else "a name, not a path"
            self.problems.append(Problem(f"{name!r} is not the name of a preset", group, where, hint))
            return []
        file = self._find(group, name, where, chain)
        if file is None:
            return []
        layer = self.read(group, file, "preset")
        base = layer.values.pop(PRESET, None)
        bases = [] if base is None else self.layers(group, base, layer.origins.get((PRESET,)), (*chain, file))
        return [*bases, layer]

    def read(self, group: str, file: pathlib.Path, route: str) -> Layer:
        """The keys of a file; of one that cannot be read, none."""
        reader = source.Reader(str(file), route, environment=self.environment)
        try:
            node = source.compose(source.read_text(file), str(file))
        except ConfigError as error:
            self.problems += [below(group, problem) for problem in error.problems]
            return Layer({})
        if not isinstance(node, yaml.MappingNode) or node.tag != scalars.MAP:
            self.problems.append(Problem("expected a mapping of keys", group, Origin(str(file), 1, 1, route)))
            return Layer({})
        values = {key: reader.plain(child, (key,)) for key, child in reader.items(node, ())}
        self.problems += [below(group, problem) for problem in reader.problems]
        return Layer.of(values, reader)

    def _find(self, group: str, name: str, where: Origin | None, chain: tuple[pathlib.Path, ...]) -> pathlib.Path | None:
        folders = list(_folders(group, chain[-1].parent))
        seen = {file.absolute() for file in chain}
        again = None
        for folder in folders:
            for file in _spelled(folder / name):
                if file.absolute() in seen:
                    again = file
                elif file.is_file() and (folder != chain[-1].parent or not _is_run(file)):
                    return file
        if again is not None and again.absolute() != chain[0].absolute():
            links = " -> ".join(file.stem for file in (*chain[1:], again))
            self.problems.append(Problem(f"the presets name each other: {links}", group, where))
            return None
        known = {file.stem for folder in folders for file in _yaml_files(folder) if file.absolute() not in seen}
        near = nearest(name, sorted(known))
        named = sorted({file.stem for folder in folders if folder != chain[-1].parent for file in _yaml_files(folder)})
        hint = f"did you mean {near!r}?" if near else f"presets: {', '.join(named) or 'none'}"
        looked = ", ".join(map(_shown, folders))
        self.problems.append(Problem(f"there is no preset {name!r} in {looked}", group, where, hint))
        return None

    def data_file(self, name: str, where: Origin | None, main: pathlib.Path) -> Layer:
        """The keys of the file of ``data.config_path``."""
        given = pathlib.Path(name).expanduser()
        if given.is_absolute():
            folders, places = [], [given]
        else:
            folders = list(dict.fromkeys([main.parent, _project(main.parent), pathlib.Path()]))
            places = [folder / given for folder in folders]
            # The package holds what the specification's example names: configs/data/NAME.yaml.
            places.append(LIBRARY.joinpath(*given.parts[1:] if given.parts[:1] == ("configs",) else given.parts))
        for place in places:
            for file in _spelled(place):
                if file.is_file():
                    return self.read("data", file, "include")
        siblings = {str(given.with_name(file.name)) for place in places for file in _yaml_files(place.parent)}
        near = nearest(name, sorted(siblings))
        hint = f"did you mean {near!r}?" if near else "a path from this file, the project or the current folder"
        looked = f" in {', '.join(map(_shown, [*folders, LIBRARY]))}" if folders else ""
        self.problems.append(Problem(f"there is no file {name!r}{looked}", "data.config_path", where, hint))
        return Layer({})


def _folders(group: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where a preset is looked for: beside what names it, in the configs of the project, in the package."""
    yield folder / group
    yield folder
    yield _project(folder) / "configs" / group
    yield LIBRARY / group


def _project(folder: pathlib.Path) -> pathlib.Path:
    """The nearest folder at or above ``folder`` that is a project's, or ``folder`` itself."""
    for parent in (folder.absolute(), *folder.absolute().parents):
        if (parent / "meta.yaml").is_file() or (parent / "configs").is_dir():
            return folder if parent == folder.absolute() else parent
    return folder


def _spelled(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files that a name may mean."""
    if path.suffix in SUFFIXES:
        yield path
    else:
        yield from (path.with_name(path.name + suffix) for suffix in SUFFIXES)


def _yaml_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}")] if folder.is_dir() else []


def _is_run(file: pathlib.Path) -> bool:
    """Whether a file is a whole configuration, which no group can build on."""
    try:
        node = source.compose(source.read_text(file), str(file))
    except ConfigError:
        return False  # reading it as a preset will say what is wrong
    return isinstance(node, yaml.MappingNode) and bool(node.value) and all(key.value in GROUPS for key, _ in node.value)


def _shown(folder: pathlib.Path) -> str:
    return "the package" if folder.is_relative_to(LIBRARY) else str(folder)
