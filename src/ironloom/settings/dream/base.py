"""The base of configuration written as Python classes. Owns how such a class is made and how it checks what is set.

Subclasses are dataclasses, or plain classes with an ``__init__`` that hands ``**kwargs`` on. Either
way values are checked against the annotations when they are set, also those of a user's own fields;
unknown names are refused with the nearest known one; :meth:`BaseConfig.validate` is called when the
object is complete, whatever ``__init__`` or ``__post_init__`` the subclass has.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, _shown, unknown_key
from ironloom.settings.dream.places import Place, caller, is_generated
from ironloom.settings.dream.typed import checked, field_types

T = TypeVar("T", bound="BaseConfig")


class _Construction(type):
    """Makes a configuration: other names for keys, all mistakes in the arguments together, validation at the end."""

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:  # type: ignore[misc]
        place = caller()
        given = _canonical(cls, kwargs)
        problems = _argument_problems(cls, given)
        if problems:
            raise ConfigError(problems)
        config: T = type.__call__(cls, *args, **given)
        object.__setattr__(config, "_is_complete", True)
        if place is not None:
            names = [*given, *list(keywords(cls))[: len(args)]]
            config._places.update({name: place for name in names if name not in config._places})
        config.complete()
        return config


@dataclasses.dataclass(eq=False, kw_only=True)
class BaseConfig(Settings, metaclass=_Construction):
    """Base of configuration classes.

    Raises:
        ConfigError: (a ``ValueError``) From the constructor or an assignment, naming the key, what was
            expected and what was found.
    """

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {}

    _is_complete: ClassVar[bool] = False
    _places: ClassVar[dict[str, Place]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Begin a configuration that nothing has been set in."""
        config = super().__new__(cls)
        object.__setattr__(config, "_places", {})
        return config

    def __post_init__(self) -> None:
        """Nothing; here for subclasses that call it. The rules are looked at when the object is complete."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = field_types(type(self))
        name = name if name in known else self.OTHER_NAMES.get(name, name)
        if name in known:
            value = _kept(type(self), name, value)
        elif self._is_complete and not name.startswith("_") and name not in vars(self) and not hasattr(type(self), name):
            raise ConfigError(unknown_key(name, [*known, *vars(self)], owner=type(self).__name__))
        place = None if is_generated() else caller()
        object.__setattr__(self, name, value)
        if place is not None:
            self._places[name] = place

    def __getattr__(self, name: str) -> Any:
        other = type(self).OTHER_NAMES.get(name)
        if other is None:
            raise AttributeError(f"{type(self).__name__!r} has no {name!r}", name=name, obj=self)
        return getattr(self, other)

    def validate(self) -> None:
        """Override it to refuse what does not fit together: raise a ``ValueError`` that says why."""

    def complete(self) -> None:
        """Look at all rules: those of this package, then :meth:`validate`.

        Raises:
            ConfigError: With every rule that is broken.
        """
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)
        self.validate()

    def replace(self, **changes: Any) -> Self:
        """A copy with other values. ``dataclasses.replace`` does the same for dataclasses."""
        changes = _canonical(type(self), changes)
        if not has_generated_init(type(self)):
            other = copy.copy(self)
            object.__setattr__(other, "_places", dict(self._places))
            for name, value in changes.items():
                setattr(other, name, value)
            other.complete()
            return other
        other = dataclasses.replace(self, **changes)
        other._places.update({name: place for name, place in self._places.items() if name not in changes})
        return other

    def to_dict(self) -> dict[str, Any]:
        """All values by name, nested configurations too; what has no field of its own included."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value.to_dict() if isinstance(value, Settings) else value for name, value in public.items()}

    def places(self) -> dict[str, Place]:
        """Where in the source the values that were given stand, by name."""
        return dict(self._places)

    def unavailable(self) -> Iterable[Problem]:
        """What can be written here but not run yet."""
        for field in dataclasses.fields(self):
            planned = field.metadata.get("planned")
            value = getattr(self, field.name)
            if planned and value != _default(field):
                yield Problem(f"{value!r} is not available yet: {planned}", field.name, hint="leave the key out")

    @classmethod
    def from_file(cls, path: str, name: str | None = None) -> Self:
        """Execute a Python file and take the object of this class, or the function that makes it, from it.

        Args:
            path: The file; ``path:name`` picks one of several.
            name: The same.

        Raises:
            ConfigError: If there is none, more than one, or the file fails.
        """
        from ironloom.settings.dream.files import from_file

        return from_file(path, cls, name).value


def has_generated_init(cls: type) -> bool:
    """Whether the constructor is the one that ``dataclass`` wrote for this very class."""
    code = getattr(vars(cls).get("__init__"), "__code__", None)
    return code is not None and code.co_filename == "<string>"


@functools.cache
def keywords(cls: type) -> dict[str, Any]:
    """Names that the constructor takes, through ``**kwargs`` handed on to the bases."""
    names: dict[str, Any] = {}
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is None or base is object:
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        names.update({each.name: each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)})
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names


def _canonical(cls: type[BaseConfig], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments under the names of the fields.

    Raises:
        ConfigError: If two names of one field have different values.
    """
    taken = keywords(cls)
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in kwargs.items():
        own = name if name in taken else cls.OTHER_NAMES.get(name, name)
        if own in found and found[own] != value:
            message = f"{names[own]} {_shown(found[own])} and {name} {_shown(value)} are one setting with two values"
            raise ConfigError(Problem(message, name, hint="keep one of the two"))
        found[own], names[own] = value, name
    return found


def _argument_problems(cls: type[BaseConfig], given: Mapping[str, Any]) -> list[Problem]:
    taken, known, problems = keywords(cls), field_types(cls), []
    for name, value in given.items():
        if name not in taken:
            problems.append(unknown_key(name, [*taken, *cls.OTHER_NAMES], owner=cls.__name__))
        elif name in known:
            try:
                _kept(cls, name, value)
            except ConfigError as error:
                problems += error.problems
    return problems


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _kept(cls: type, name: str, value: Any) -> Any:
    """The value as it is stored.

    Raises:
        ConfigError: If it is not of the field's type.
    """
    if name in vars(cls) and value is vars(cls)[name]:  # a default is taken as it is
        return value
    kept, problem = checked(cls, name, value)
    if problem is not None:
        raise ConfigError(problem)
    return kept
