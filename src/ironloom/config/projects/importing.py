"""Targets of another project as part of a graph.

A node of :func:`from_project` is replaced by what it names when the configuration is loaded, so that everything that
looks at a graph sees the whole of it, and ``run.yaml`` needs no other file.
"""

from __future__ import annotations

import contextvars
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ironloom.config.build import build
from ironloom.config.graph import Graph, Node, Path, Var, children, dotted, is_leaf, is_plain, walk
from ironloom.config.projects.declared import check_declared
from ironloom.config.projects.meta import META
from ironloom.config.projects.project import Project, find, read
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import nearest

FROM_PROJECT = "ironloom.config.projects:from_project"
#: Root key of a graph: folders of Python modules that it names.
SYSTEM_PATH = "system_path"

_loading: contextvars.ContextVar[tuple[pathlib.Path, ...]] = contextvars.ContextVar("loading", default=())


def from_project(
    project_dir: str,
    config_template: str | None = None,
    targets: str | Sequence[str] = "main",
    pp_kwargs: Mapping[str, Any] | None = None,
    **context_vars: Any,
) -> Any:
    """Build targets of another project's configuration.

    Args:
        project_dir: The project's folder; in a configuration, relative to its own project.
        config_template: The name of the configuration; None: the default one.
        targets: One name gives the object, several give a dict by name.
        pp_kwargs: Values for the names in its templates.
        **context_vars: Values of its variables (``!var``).

    Raises:
        ConfigError: If there is no such project, configuration or target, or the configuration is wrong.
    """
    graph = _load(_project(pathlib.Path(project_dir)), config_template, {**(pp_kwargs or {})})
    return build(graph, targets, variables=context_vars)


def complete(graph: Graph, file: str | pathlib.Path, arguments: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a configuration with what its project adds: imported targets, and where Python finds its modules.

    The options that it declares have done their work when it is loaded; they are looked at and left out.

    Args:
        graph: As its templates describe it.
        file: The configuration.
        arguments: The values of options that were given.

    Raises:
        ConfigError: With everything that is wrong with the options, or every import that cannot be made.
    """
    check_declared(graph, arguments or {})
    file = pathlib.Path(file).resolve()
    token = _loading.set((*_loading.get(), file))
    try:
        project = find(file)
        importer = _Importer(graph, file.parent if project is None else project.folder)
        graph = importer.whole()
    finally:
        _loading.reset(token)
    folders = [str(folder) for folder in project.system_path] if project is not None else []
    folders = list(dict.fromkeys([*folders, *importer.system_path]))
    if folders:
        graph.root[SYSTEM_PATH] = folders
        use_modules(graph)
    return graph


def use_modules(graph: Graph) -> None:
    """Let Python find the modules that a graph says it names."""
    from ironloom.config.static import modules

    folders = graph.root.get(SYSTEM_PATH)
    for folder in folders if isinstance(folders, list) else []:
        if folder not in sys.path:
            sys.path.append(str(folder))
            modules.find_module.cache_clear()


def _load(project: Project, name: str | None, arguments: Mapping[str, Any]) -> Graph:
    from ironloom import config

    file = project.config(name)
    if file in _loading.get():
        chain = " imports ".join(str(path) for path in (*_loading.get(), file))
        raise ConfigError(Problem(f"a configuration cannot be imported into itself: {chain}"))
    return config.load(str(file), (), arguments)


def _project(folder: pathlib.Path) -> Project:
    if (folder / META).is_file():
        return read(folder)
    siblings = [entry.parent.name for entry in folder.parent.glob(f"*/{META}")] if folder.parent.is_dir() else []
    near = nearest(folder.name, siblings)
    hint = f"did you mean {str(folder.with_name(near))!r}?" if near else f"the folder of a project has a {META}"
    raise ConfigError(Problem(f"there is no project {str(folder)!r}", hint=hint))


class _Importer:
    """Replaces the imports in one graph."""

    def __init__(self, graph: Graph, folder: pathlib.Path):
        self._graph = graph
        self._folder = folder
        self._problems: list[Problem] = []
        self._names = {value.name for _, value in walk(graph.root) if isinstance(value, Node) and value.name}
        self.system_path: list[str] = []

    def whole(self) -> Graph:
        """The graph without imports."""
        paths = [path for path, value in walk(self._graph.root) if isinstance(value, Node) and value.target == FROM_PROJECT]
        if not paths:
            return self._graph
        root = replaced(self._graph.root, self._imported)
        if self._problems:
            raise ConfigError(self._problems)
        return dataclasses.replace(self._graph, root=root)

    def _imported(self, value: Any, path: Path) -> Any:
        if not isinstance(value, Node) or value.target != FROM_PROJECT:
            return value
        try:
            return self._value(value, path)
        except ConfigError as error:
            self._problems += [dataclasses.replace(problem, origin=problem.origin or value.origin) for problem in error.problems]
            if any(problem.origin not in (None, value.origin) for problem in error.problems):
                self._problems.append(Problem("cannot be imported for what is wrong there", dotted(path), value.origin))
            return None

    def _value(self, node: Node, path: Path) -> Any:
        given = self._arguments(node, path)
        folder = (self._folder / given["project_dir"]).resolve()
        targets = given.get("targets", "main")
        known = ("project_dir", "config_template", "targets", "pp_kwargs")
        variables = {name: value for name, value in given.items() if name not in known}
        plain = {name: value for name, value in variables.items() if is_leaf(value)}
        project, name = _project(folder), given.get("config_template")
        try:
            project.config(name)
        except ConfigError as error:
            raise ConfigError([dataclasses.replace(problem, origin=node.origin) for problem in error.problems]) from None
        graph = _load(project, name, {**plain, **(given.get("pp_kwargs") or {})})
        for target in [targets] if isinstance(targets, str) else targets:
            if target not in graph.root:
                near = nearest(str(target), graph.root)
                hint = f"did you mean {near!r}?" if near else "its targets: " + ", ".join(graph.root)
                raise ConfigError(Problem(f"the project {str(folder)!r} has no target {target!r}", dotted(path), node.origin, hint))
        self.system_path += graph.root.get(SYSTEM_PATH, [])
        if node.mode == "partial":
            return dataclasses.replace(node, args=(), kwargs={**given, "project_dir": str(folder)})
        root = replaced(graph.root, lambda value, _: self._fitted(value, variables))
        if isinstance(targets, str):
            self._take_origins(graph, targets, path)
            return root[targets]
        for target in targets:
            self._take_origins(graph, target, (*path, target))
        return {target: root[target] for target in targets}

    def _arguments(self, node: Node, path: Path) -> dict[str, Any]:
        """The arguments by name."""
        order = ("project_dir", "config_template", "targets", "pp_kwargs")
        given = {**dict(zip(order, node.args, strict=False)), **node.kwargs}
        if len(node.args) > len(order):
            raise ConfigError(Problem(f"takes {len(order)} arguments by position, found {len(node.args)}", dotted(path)))
        wanted: list[tuple[str, type | tuple[type, ...], str]] = [
            ("project_dir", str, "a folder"),
            ("config_template", (str, type(None)), "the name of a configuration"),
            ("targets", (str, list, tuple), "a name or a list of names"),
            ("pp_kwargs", (dict, type(None)), "a mapping"),
        ]
        for name, kinds, what in wanted:
            if name in given and not (isinstance(given[name], kinds) and is_plain(given[name])):
                raise ConfigError(Problem(f"expected {what} that is known without building", dotted((*path, name))))
        if "project_dir" not in given:
            raise ConfigError(Problem("needs project_dir, the folder of the other project", dotted(path)))
        return given

    def _fitted(self, value: Any, variables: Mapping[str, Any]) -> Any:
        """A part of an imported graph as part of this one: its variables given, its names not taken."""
        if isinstance(value, Var) and value.name in variables:
            return variables[value.name]
        if isinstance(value, Node) and value.name:
            name, number = value.name, 1
            while name in self._names:
                number += 1
                name = f"{value.name}_{number}"
            self._names.add(name)
            return dataclasses.replace(value, name=name)
        return value

    def _take_origins(self, graph: Graph, target: str, path: Path) -> None:
        """Note where everything in an imported target stands; what is shared there is noted at its first place."""
        first = {id(value): place for place, value in walk(graph.root) if not is_leaf(value)}
        homes: dict[Path, Path] = {}
        for place, value in walk(graph.root[target], (target,)):
            home = homes[place] = (*homes[place[:-1]], place[-1]) if is_leaf(value) and len(place) > 1 else first.get(id(value), place)
            here = (*path, *place[1:])
            if home in graph.origins:
                self._graph.origins[here] = graph.origins[home]
            if home in graph.earlier:
                self._graph.earlier[here] = graph.earlier[home]


def replaced(root: dict[str, Any], function: Callable[[Any, Path], Any]) -> dict[str, Any]:
    """A graph's root with ``function(value, path)`` in place of each value, inner ones first; sharing stays."""
    memo: dict[int, Any] = {}

    def visit(value: Any, path: Path) -> Any:
        if is_leaf(value):
            return value
        if id(value) not in memo:
            inner = {key: visit(child, (*path, key)) for key, child in children(value)}
            same = all(inner[key] is child for key, child in children(value))
            memo[id(value)] = function(value if same else _with(value, inner), path)
        return memo[id(value)]

    return {name: visit(value, (name,)) for name, value in root.items()}


def _with(value: Any, inner: dict[Any, Any]) -> Any:
    """A node, variable or container with other children."""
    if isinstance(value, Node):
        args = tuple(inner[index] for index in range(len(value.args)))
        return dataclasses.replace(value, args=args, kwargs={name: inner[name] for name in value.kwargs})
    if isinstance(value, Var):
        return dataclasses.replace(value, default=inner["default"])
    return inner if type(value) is dict else type(value)(inner.values())
