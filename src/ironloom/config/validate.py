"""All problems of plain data as arguments of a settings class: keys, values, then what does not fit together."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ironloom.config.graph import Path
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import Settings, mapping_problems


def settings_problems(cls: type[Settings], mapping: Mapping[str, Any]) -> list[Problem]:
    """Every problem of ``mapping`` as arguments of ``cls``; paths begin below ``cls``."""
    problems = mapping_problems(cls, mapping)
    if problems:
        return problems
    schema: Any = cls
    for name, nested in _nested(schema).items():
        value = mapping.get(name)
        if isinstance(value, Mapping):
            problems += [below(name, problem) for problem in settings_problems(nested, value)]
    if problems:
        return problems
    try:
        cls(**mapping)
    except ConfigError as error:
        return error.problems
    return []


@functools.cache
def _nested(cls: Any) -> dict[str, type[Settings]]:
    """The settings inside of settings, by the key that holds them."""
    hints = typing.get_type_hints(cls)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Settings)}


def below(name: str, problem: Problem) -> Problem:
    """The problem with ``name`` in front of its path."""
    return dataclasses.replace(problem, path=f"{name}.{problem.path}" if problem.path else name)


def is_unknown_key(problem: Problem) -> bool:
    """Whether a problem is about a key that does not exist (see ``settings.base.unknown_key``)."""
    return problem.message.startswith("unknown key")


def nearest_origin(path: Path, *tables: Mapping[Path, Origin]) -> Origin | None:
    """The origin of ``path`` in the first table that has it, or else of what is nearest around it."""
    for end in range(len(path), 0, -1):
        for table in tables:
            if path[:end] in table:
                return table[path[:end]]
    return None


def as_path(text: str) -> Path:
    """A dotted path with its list indices as numbers."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split("."))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems by file and line, those without a line last, each one once."""
    return sorted(
        dict.fromkeys(problems),
        key=lambda problem: (
            problem.origin is None or problem.origin.line is None,
            problem.origin.source if problem.origin else "",
            (problem.origin.line or 0, problem.origin.column or 0) if problem.origin else (0, 0),
        ),
    )
