"""Typed, validated settings as plain dataclasses. Knows no particular setting and never imports torch.

A settings class is an ordinary ``@dataclass`` that derives from :class:`Settings` and declares its
fields with :func:`setting`. Values are checked against the annotation when they are set: in the
constructor, by assignment, or from a mapping (where all mistakes are collected first). Ranges
stand in the annotation: ``Annotated[int, Ge(1)]``.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ironloom.errors import ConfigError, Problem


def setting(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    default_factory: Any = dataclasses.MISSING,
    planned: str | None = None,
) -> Any:
    """A documented dataclass field.

    Args:
        default: The default value; leave out for a required setting.
        doc: One line, shown in help texts, the schema and the reference pages.
        default_factory: As in ``dataclasses.field``, for mutable defaults.
        planned: What is missing. Set for a key whose feature is not built yet: any value but the
            default is then refused by name instead of being ignored.
    """
    metadata = {"doc": doc, "planned": planned}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base of all settings classes.

    Raises:
        ConfigError: From the constructor, an assignment or :meth:`from_mapping`, naming the key,
            what was expected and what was found.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        cls: Any = type(self)
        field = _fields(cls).get(name)
        if field is None:
            if not name.startswith("_") and not hasattr(type(self), name):
                raise ConfigError(unknown_key(name, field_names(type(self)), owner=type(self).__name__))
            object.__setattr__(self, name, value)
            return
        if value is field.default:  # a default is right, and most values are defaults
            object.__setattr__(self, name, value)
            return
        checked, problem = _checked(type(self), name, value)
        if problem is not None:
            raise ConfigError(problem)
        object.__setattr__(self, name, checked)

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Iterable[Problem]:
        """Cross-field rules: what is wrong although every value is right alone. Override and extend."""
        return ()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build from plain data, reporting every problem together.

        Raises:
            ConfigError: With one problem for each unknown key, wrong type, missing or planned
                setting; cross-field rules are looked at once these are right.
        """
        problems = mapping_problems(cls, mapping)
        if problems:
            raise ConfigError(problems)
        return cls(**mapping)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain nested data."""
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return values


def field_names(cls: type) -> list[str]:
    """Names of a settings class's keys, in order of declaration."""
    return [field.name for field in dataclasses.fields(cls)]


def mapping_problems(cls: Any, mapping: Mapping[str, Any], prefix: str = "") -> list[Problem]:
    """Every problem of ``mapping`` as arguments of ``cls``, key by key; paths start with ``prefix``."""
    fields = _fields(cls)
    problems = []
    for name, value in mapping.items():
        path = f"{prefix}{name}"
        if name not in fields:
            problems.append(dataclasses.replace(unknown_key(name, list(fields), given=mapping), path=path))
            continue
        annotation = _hints(cls)[name]
        if _is_settings(annotation) and isinstance(value, Mapping):
            problems += mapping_problems(annotation, value, prefix=f"{path}.")
            continue
        _, problem = _checked(cls, name, value)
        if problem is not None:
            problems.append(dataclasses.replace(problem, path=path))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in mapping:
            problems.append(Problem("required setting is missing", path=f"{prefix}{name}"))
    return problems


def unknown_key(name: str, known: Iterable[str], owner: str = "", given: Iterable[Any] = ()) -> Problem:
    """The problem of a key that does not exist, with the nearest one that does; of two, the one that is not ``given``."""
    near = nearest(name, known, given)
    hint = f"did you mean {near!r}?" if near else "known keys: " + ", ".join(sorted(known))
    return Problem("unknown key" + (f" of {owner}" if owner else ""), path=str(name), hint=hint)


SLIPS = 2  # so many edits are a slip of the keyboard; beyond, a longer common part counts more


def nearest(name: str, known: Iterable[str], given: Iterable[Any] = ()) -> str | None:
    """The known name that ``name`` most likely stands for, or None; of two equally near, one that is not ``given``."""
    name, names, taken = str(name), list(known), set(given)
    matches = difflib.get_close_matches(name, names, n=8, cutoff=0.6)
    slips = [(_edits(name, match), match in taken, names.index(match), match) for match in matches]
    close = min((slip for slip in slips if slip[0] <= SLIPS), default=None)
    return close[-1] if close else next(iter(matches), None)


def _edits(left: str, right: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that lead from one word to the other (Damerau 1964)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(right, start=1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                edits = min(edits, earlier[j - 2] + 1)
            row.append(edits)
    return row[-1]


@functools.cache
def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    """The check of one field; made when the field is first set, because each takes a moment."""
    config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(_hints(cls)[name], config=config)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _checked(cls: type, name: str, value: Any) -> tuple[Any, Problem | None]:
    """The value as it will be stored, or what is wrong with it."""
    annotation = _hints(cls)[name]
    if isinstance(value, enum.Enum):
        value = value.value
    try:
        if _is_settings(annotation):
            if isinstance(value, Mapping):
                return annotation.from_mapping(value), None
            if not isinstance(value, annotation):
                return None, Problem(f"expected {annotation.__name__} or a mapping, found {_shown(value)}", path=name)
            return value, None
        checked = _adapter(cls, name).validate_python(value)
    except ValidationError as error:
        near = nearest(value, _choices(annotation)) if isinstance(value, str) else None
        hint = f"did you mean {near!r}?" if near else ""
        return None, Problem(f"expected {_expectation(error)}, found {_shown(value)}", path=name, hint=hint)
    field = _fields(cls)[name]
    planned = field.metadata.get("planned")
    if planned and checked != field.default:
        return None, Problem(f"{_shown(value)} is not available yet: {planned}", path=name, hint="leave the key out")
    return checked, None


def _choices(annotation: Any) -> list[str]:
    """The texts that an annotation enumerates, also as a part of a union."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in _choices(part)]


def _expectation(error: ValidationError) -> str:
    """What the annotation asks for, in words; alternatives of a union are joined."""
    wanted = []
    for detail in error.errors(include_url=False, include_context=True):
        context = detail.get("ctx", {})
        text = _WANTED.get(detail["type"], detail["msg"]).format(**context)
        place = [part for part in detail["loc"] if isinstance(part, int)]
        wanted.append(f"{text} at item {place[0]}" if place else text)
    return " or ".join(dict.fromkeys(wanted))


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "none_required": "null",
    "list_type": "a list",
    "dict_type": "a mapping",
    "literal_error": "one of {expected}",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "finite_number": "a finite number",
    "callable_type": "a function or class",
    "is_instance_of": "{class}",
    "tuple_type": "a tuple",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
