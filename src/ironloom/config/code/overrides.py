"""Overrides from the command line on a configuration object: ``training_parameters.n_epochs=3``."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from ironloom.config import overrides as command_line
from ironloom.config.code import quickstart
from ironloom.config.code.given import Given
from ironloom.config.graph import dotted
from ironloom.config.overrides import ORIGIN, Override
from ironloom.config.validate import below
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, field_names, unknown_key
from ironloom.settings.data import DataGroup
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.files import running
from ironloom.settings.dream.typed import checked, field_types
from ironloom.settings.model import ModelConfig

_QUICKSTART: dict[str, tuple[type[Settings], dict[str, Any]]] = {
    "model": (ModelConfig, quickstart.MODEL),
    "data": (DataGroup, quickstart.DATA),
}
TARGETS = ("trainer_args", "data", "model", "optimizer", "lr_scheduler", "main", "test_dataset")


def split(given: Given, texts: Iterable[str]) -> tuple[list[Override], list[str], list[Problem]]:
    """Overrides of the object, the texts of those that go to the graph it becomes, and what is wrong."""
    mine, theirs, problems = [], [], []
    for text in texts:
        found, wrong = command_line.parse([text])
        problems += wrong
        for override in found:
            first = str(override.path[0])
            _begin(given, override)
            is_field = isinstance(getattr(given.config, first, None), Settings) or len(override.path) == 1
            if first in TARGETS and not is_field:
                theirs.append(text)
            else:
                mine.append(override)
    return mine, theirs, problems


def _begin(given: Given, override: Override) -> None:
    """Let the quickstart's model or data stand where the configuration has none, so that a part of it can be set."""
    first, *rest = map(str, override.path)
    settings: tuple[type[Settings], dict[str, Any]] | None = _QUICKSTART.get(first)
    if settings is None or not rest or given.value(first) is not None or given.value("train_dataset") is not None:
        return
    cls, values = settings
    if rest[0] in field_names(cls):
        given.adopt(first, cls(**copy.deepcopy(values)))


def apply(given: Given, overrides: Iterable[Override]) -> list[Problem]:
    """Set the values, then look at the rules of everything that was changed; returns what is wrong."""
    problems: list[Problem] = []
    changed: dict[str, BaseConfig] = {}
    for override in overrides:
        holder, problem = _holder(given.config, override)
        problem = problem or _set(given, holder, override)
        if problem is not None:
            problems.append(dataclasses.replace(problem, path=dotted(override.path), origin=ORIGIN))
        elif isinstance(holder, BaseConfig):
            changed[dotted(override.path[:-1])] = holder
    if problems:
        return problems
    for front, config in {**changed, "": given.config}.items():
        try:
            with running(pathlib.Path(given.file)):
                config.complete()
        except ConfigError as error:
            problems += [below(front, problem) if front and problem.path else problem for problem in error.problems]
    return problems


def _holder(config: BaseConfig, override: Override) -> tuple[Any, Problem | None]:
    """What holds the last key of an override."""
    holder: Any = config
    for depth, key in enumerate(override.path[:-1], start=1):
        if isinstance(holder, dict):
            holder = holder.setdefault(key, {})
            continue
        names = _names(holder)
        if key not in names:
            return None, _unknown(holder, str(key))
        inner = getattr(holder, str(key))
        if not isinstance(inner, (Settings, dict)):
            return None, Problem(f"cannot be set: {dotted(override.path[:depth])} is {inner!r}, not settings")
        holder = inner
    return holder, None


def _set(given: Given, holder: Any, override: Override) -> Problem | None:
    key = str(override.path[-1])
    if isinstance(holder, dict):
        holder[key] = override.value
        given.overridden.add(dotted(override.path[:-1]))
        return None
    if key not in _names(holder):
        return _unknown(holder, key)
    if isinstance(holder, BaseConfig):
        key = key if key in field_types(type(holder)) else type(holder).OTHER_NAMES.get(key, key)
        current = getattr(holder, key, None)
        try:
            if isinstance(current, BaseConfig) and isinstance(override.value, dict):
                value, problem = type(current)(**override.value), None
            else:
                value, problem = checked(type(holder), key, override.value, is_text=True)
            if problem is None:
                setattr(holder, key, value)
        except ConfigError as error:
            problem = error.problems[0]
    else:
        problem = _set_setting(holder, key, override.value)
    if problem is None:
        given.overridden.add(dotted((*override.path[:-1], key)))
    return problem


def _set_setting(holder: Settings, key: str, value: Any) -> Problem | None:
    try:
        setattr(holder, key, value)
    except ConfigError as error:
        return error.problems[0]
    return None


def _names(holder: Any) -> list[str]:
    if isinstance(holder, BaseConfig):
        return [*(name for name in {**field_types(type(holder)), **vars(holder)} if not name.startswith("_")), *type(holder).OTHER_NAMES]
    return field_names(type(holder))


def _unknown(holder: Any, key: str) -> Problem:
    """The problem of a key that is not there; of one that belongs elsewhere, with the place."""
    inner = [name for name in _names(holder) if isinstance(getattr(holder, name, None), BaseConfig)]
    owners = [name for name in inner if key in _names(getattr(holder, name))]
    if owners:
        return Problem(f"{key} belongs to {owners[0]}", hint=f"write it as {owners[0]}.{key}")
    problem = unknown_key(key, _names(holder), owner=type(holder).__name__)
    if "did you mean" not in problem.hint:
        for name in inner:
            near = unknown_key(key, _names(getattr(holder, name)))
            if "did you mean" in near.hint:
                return dataclasses.replace(problem, hint=near.hint.replace("did you mean '", f"did you mean '{name}."))
    return problem
