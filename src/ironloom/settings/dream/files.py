"""Executing a Python file and finding the configuration in it. The file is trusted: it runs as it would by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import nearest, unknown_key
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.places import Place
from ironloom.settings.dream.source import Sources

T = TypeVar("T", bound=BaseConfig)


@dataclass
class Picked(Generic[T]):
    """A configuration, and the module that the file became."""

    value: T
    module: types.ModuleType


def from_file(path: str | pathlib.Path, cls: type[T], name: str | None = None) -> Picked[T]:
    """The object of ``cls`` in a file; see :meth:`BaseConfig.from_file`.

    Raises:
        ConfigError: If there is none, more than one, or the file fails.
    """
    file, name = split(path, name)
    home = sys.modules.get(cls.__module__)
    if home is not None and getattr(home, "__file__", None) == _absolute(file):
        module = home  # executing the file again would make another class of the same name
    else:
        module = execute(file)
    return Picked(_pick(module, file, cls, name), module)


def split(path: str | pathlib.Path, name: str | None = None) -> tuple[pathlib.Path, str | None]:
    """The file and the name of ``file.py:name``."""
    text = str(path)
    if name is None and ".py:" in text and not pathlib.Path(text).exists():
        text, _, name = text.rpartition(":")
    return pathlib.Path(text), name


def _absolute(file: pathlib.Path) -> str:
    """The name that the file has in tracebacks and targets; links are kept, ``..`` is not."""
    return os.path.abspath(file)  # noqa: PTH100 - pathlib follows links, or keeps ..


def execute(file: pathlib.Path) -> types.ModuleType:
    """Run a file as a module of its own.

    Raises:
        ConfigError: If it cannot be read, is not Python, or raises; with the line.
    """
    if file.suffix != ".py":
        raise ConfigError(Problem("is not a Python file", origin=Origin(str(file)), hint="a configuration in code is a .py file"))
    try:
        code = compile(file.read_bytes(), _absolute(file), "exec")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [entry.name for entry in file.parent.glob("*.py")], n=1)
        hint = f"did you mean {str(file.with_name(near[0]))!r}?" if near else ""
        raise ConfigError(Problem("there is no such file", origin=Origin(str(file)), hint=hint)) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", origin=Origin(str(file)))) from None
    except SyntaxError as error:
        raise ConfigError(Problem(f"is not valid Python: {error.msg}", origin=Origin(str(file), error.lineno, error.offset))) from None
    except ValueError as error:
        raise ConfigError(Problem(f"is not valid Python: {error}", origin=Origin(str(file)))) from None
    module = types.ModuleType(f"configuration_{file.stem}_{abs(hash(_absolute(file))):x}")
    module.__file__ = _absolute(file)
    sys.modules[module.__name__] = module  # where dataclasses and type hints look names up
    with running(file):
        exec(code, vars(module))
    return module


@contextlib.contextmanager
def running(file: pathlib.Path) -> Iterator[None]:
    """Run code of a file: its folder can be imported from, and what it raises becomes a ConfigError with its line.

    Raises:
        ConfigError: For any exception of the code.
    """
    folder = str(pathlib.Path(_absolute(file)).parent)
    sys.path.insert(0, folder)
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ConfigError(_problems(file, error)) from None
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _problems(file: pathlib.Path, error: BaseException) -> list[Problem]:
    """What went wrong, at the line of the file that was running."""
    problems = error.problems if isinstance(error, ConfigError) else [_problem(error)]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _absolute(file)]
    if not frames or frames[-1].lineno is None:
        return [_at(problem, Origin(str(file))) for problem in problems]
    last, line = frames[-1], frames[-1].lineno
    if last.end_lineno is None or last.colno is None or last.end_colno is None:
        return [_at(problem, Origin(str(file), line)) for problem in problems]
    place = Place(last.filename, line, last.colno, last.end_lineno, last.end_colno)
    sources = Sources({_absolute(file): str(file)})
    return [_at(problem, sources.origin(place, *problem.path.split("."))) for problem in problems]


def _at(problem: Problem, origin: Origin) -> Problem:
    return problem if problem.origin is not None else dataclasses.replace(problem, origin=origin)


def _problem(error: BaseException) -> Problem:
    """An exception in words; of a misspelt argument with the nearest one."""
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and unknown is not None:
        frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
        for name, called in {**frame.f_globals, **frame.f_locals}.items():
            if callable(called) and getattr(called, "__name__", None) == unknown[1]:
                return unknown_key(unknown[2], inspect.signature(called).parameters, owner=name)
    message = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
    return Problem(message.rstrip(": "))


def _pick(module: types.ModuleType, file: pathlib.Path, cls: type[T], name: str | None) -> T:
    if name is None:
        name = _only_name(module, file, cls)
    if not hasattr(module, name):
        near = nearest(name, [*_objects(module, cls), *_functions(module, cls)])
        hint = f"did you mean {near!r}?" if near else ""
        raise ConfigError(Problem(f"there is no {name!r} in the file", origin=Origin(str(file)), hint=hint))
    found = getattr(module, name)
    if callable(found) and not isinstance(found, cls):
        if inspect.isfunction(found) and _needs_arguments(found):
            raise ConfigError(Problem(f"{name!r} needs arguments", origin=Origin(str(file)), hint="a function without arguments is called"))
        with running(file):
            found = found()
    if not isinstance(found, cls):
        raise ConfigError(Problem(f"{name!r} is of type {type(found).__name__}, not {cls.__name__}", origin=Origin(str(file))))
    return found


def _only_name(module: types.ModuleType, file: pathlib.Path, cls: type) -> str:
    """The name of the only candidate in a file: an object, or else a function."""
    names = _objects(module, cls) or _functions(module, cls)
    where = Origin(str(file))
    if len(names) == 1:
        return names[0]
    if names:
        hint = "pick one: " + ", ".join(f"{file}:{name}" for name in names)
        raise ConfigError(Problem(f"there are {len(names)} configurations in the file", origin=where, hint=hint))
    message = f"there is no configuration in the file: looked for an object of {cls.__name__}"
    classes = [name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
    classes = [name for name in classes if issubclass(getattr(module, name), cls)]
    hint = f"write config = {classes[0]}(...)" if classes else f"write config = {cls.__name__}(...)"
    raise ConfigError(
        Problem(f"{message}, or a function without arguments that is named or annotated as making one", origin=where, hint=hint)
    )


def _objects(module: types.ModuleType, cls: type) -> list[str]:
    """Names of the objects of ``cls``, each object once; those with a leading underscore are private."""
    seen: set[int] = set()
    names = []
    for name, value in vars(module).items():
        if isinstance(value, cls) and not name.startswith("_") and id(value) not in seen:
            seen.add(id(value))
            names.append(name)
    return names


def _functions(module: types.ModuleType, cls: type) -> list[str]:
    """Names of the file's own functions that make a configuration, by their annotation or else by their name."""
    names = []
    for name, value in vars(module).items():
        if not inspect.isfunction(value) or value.__module__ != module.__name__ or name.startswith("_") or _needs_arguments(value):
            continue
        makes = value.__annotations__.get("return")
        if isinstance(makes, str):
            makes = vars(module).get(makes)
        if (isinstance(makes, type) and issubclass(makes, cls)) or (makes is None and "config" in name):
            names.append(name)
    return names


def _needs_arguments(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters)
