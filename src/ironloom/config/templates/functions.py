"""The functions, values and filters that expressions in templates can use."""

from __future__ import annotations

import datetime
import functools
import os
import pathlib
import platform
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from jinja2 import Undefined

from ironloom.config import scalars, secrets
from ironloom.errors import ConfigError
from ironloom.settings.base import nearest

_WRITING = ("clear", "copy", "pop", "popitem", "putenv", "setdefault", "unsetenv", "update")
_FILE_TIME = "%Y-%m-%dT%H-%M-%S"


class Environment(Mapping[str, str]):
    """The environment variables, to read. Of a secret one the value is its name in brackets, ``<NAME>``.

    Attributes:
        secrets: Names of the secret variables that were read.
    """

    def __init__(self) -> None:
        self.secrets: set[str] = set()

    def __getitem__(self, name: str) -> str:
        if name in _WRITING and name not in os.environ:  # Jinja looks up attributes as items too
            raise ConfigError("the environment is there to be read")
        if name not in os.environ:
            near = nearest(name, os.environ)
            hint = f"did you mean {near!r}?" if near else f"set it, or write os.environ.get({name!r}, ...)"
            raise ConfigError(f"the environment variable {name!r} is not set ({hint})")
        if not secrets.is_secret(name) or not os.environ[name]:
            return os.environ[name]
        self.secrets.add(name)
        return f"<{name}>"

    def __contains__(self, name: object) -> bool:
        return name in os.environ

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a variable, or the default where it is not set."""
        return self[name] if name in os.environ else default

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


class System:
    """What templates see of the module ``os``."""

    def __init__(self) -> None:
        self.environ = Environment()


class _Versions(Mapping[str, str]):
    """Versions of Python and of installed packages; they are looked up when they are used."""

    _NAMES = ("python", "ironloom", "torch", "transformers", "accelerate")

    def __getitem__(self, name: str) -> str:
        import importlib.metadata

        if name == "python":
            return platform.python_version()
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)


def names(file: str) -> dict[str, Any]:
    """The global names of the templates that ``file`` is rendered with."""
    folder = pathlib.Path(file).resolve().parent
    project = _holding(folder, "meta.yaml")
    return {
        **_numbers(),
        **_times(),
        **_paths(),
        "repr": repr,
        "project_dir": str(project or folder),
        "workspace_root": str(_holding(folder, "ironloom_workspace", "forgather_workspace") or project or folder),
        "hostname": socket.gethostname(),
        "uname": platform.uname(),
        "versions": _Versions(),
    }


def _holding(folder: pathlib.Path, *names: str) -> pathlib.Path | None:
    """The nearest folder, upwards, that has an entry of one of these names."""
    return next((place for place in (folder, *folder.parents) if any((place / name).exists() for name in names)), None)


def _numbers() -> dict[str, Any]:
    def text(value: Any = "") -> str:
        """``str`` itself would give access to formatting that the sandbox does not see."""
        return str(value)

    plain: list[Callable[..., Any]] = [int, float, bool, len, min, max, round, abs, sum, sorted, list, tuple, enumerate, zip]
    return {**{function.__name__: function for function in plain}, "str": text}


def _times() -> dict[str, Any]:
    def now() -> datetime.datetime:
        return datetime.datetime.now()

    def utcnow() -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    return {
        "now": now,
        "utcnow": utcnow,
        "isotime": lambda: now().isoformat(timespec="seconds"),
        "utcisotime": lambda: utcnow().isoformat(timespec="seconds"),
        "filetime": lambda: now().strftime(_FILE_TIME),
        "utcfiletime": lambda: utcnow().strftime(_FILE_TIME),
    }


def _paths() -> dict[str, Any]:
    functions: list[Callable[..., Any]] = [os.path.join, os.path.normpath, os.path.abspath, os.path.relpath]
    functions += [os.path.dirname, os.path.basename, os.path.splitext]
    table: dict[str, Any] = {function.__name__: _defined(function) for function in functions}
    table["joinpath"] = table.pop("join")
    home = pathlib.Path.home
    places = {
        "user_data_dir": ("XDG_DATA_HOME", lambda: home() / ".local" / "share"),
        "user_cache_dir": ("XDG_CACHE_HOME", lambda: home() / ".cache"),
        "user_config_dir": ("XDG_CONFIG_HOME", lambda: home() / ".config"),
        "site_data_dir": ("XDG_DATA_DIRS", lambda: pathlib.Path("/usr/local/share")),
        "site_config_dir": ("XDG_CONFIG_DIRS", lambda: pathlib.Path("/etc/xdg")),
    }
    for name, (variable, default) in places.items():
        table[name] = functools.partial(_place, variable, default)
    config = functools.partial(_place, *places["user_config_dir"], "ironloom")
    return {
        **table,
        "modname_from_path": _defined(lambda path: pathlib.Path(path).stem),
        "user_home_dir": lambda: str(home()),
        "getcwd": os.getcwd,
        "ironloom_config_dir": config,
        "forgather_config_dir": config,
    }


def _place(variable: str, default: Callable[[], pathlib.Path], application: str = "") -> str:
    """A folder of the desktop standard, for an application or as a whole."""
    first = os.environ.get(variable, "").split(os.pathsep)[0]
    return str(pathlib.Path(first or default()) / application)


def _defined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which names the argument that is undefined instead of failing inside."""

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        for arg in args:
            if isinstance(arg, Undefined):
                str(arg)
        return function(*args)

    return called


class _Dumper(yaml.SafeDumper):
    """Writes values so that the scalar rules of configurations read the same ones."""

    yaml_implicit_resolvers = scalars.resolvers()


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    return yaml.ScalarNode(*scalars.write(value))


_Dumper.add_representer(float, _float)


def to_yaml(value: Any, *default: Any) -> str:
    """The filter ``toyaml``: a value as YAML on one line; the default, if given, for an undefined one."""
    if isinstance(value, Undefined) and default:
        value = default[0]
    if isinstance(value, Undefined):
        str(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1 << 30, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
