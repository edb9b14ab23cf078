"""Fields that a user's configuration class adds. One with the name of a setting of the run sets it."""

from __future__ import annotations

import ast
from typing import Any

from ironloom.config.code.given import Given
from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import field_names
from ironloom.settings.dream import BaseTrainerConfig, DeviceParameters, DreamTrainerConfig, TrainingParameters
from ironloom.settings.model import ModelConfig

_MORE_NAMES = {"batch_size": "training_parameters.train_batch_size", "gradient_clip": "training_parameters.gradient_clip_val"}


def forward(given: Given) -> list[Problem]:
    """Take settings of the run from a user's fields of the same name; returns what is wrong.

    ``learning_rate`` of the configuration becomes ``training_parameters.learning_rate`` and so on, unless
    that is set itself. Without a model, names of the built-in decoder's shape are taken for it.
    """
    problems = []
    for name in own_names(given.config):
        goal = _goal(name)
        if goal is not None:
            problem = _move(given, name, goal)
            if problem is not None:
                problems.append(problem)
        elif name in field_names(ModelConfig) and given.value("model") is None:
            given.shape[name] = name
    return problems


def unused(given: Given) -> list[str]:
    """Fields of the user's own that neither the run nor the file reads."""
    names = [name for name in own_names(given.config) if _goal(name) is None and name not in given.shape]
    return [name for name in names if not _is_read(given, name)]


def own_names(config: Any) -> list[str]:
    """Names of what a configuration has besides the fields of this package."""
    known = {*field_names(DreamTrainerConfig), *field_names(BaseTrainerConfig)}
    return [name for name in vars(config) if not name.startswith("_") and name not in known]


def _goal(name: str) -> str | None:
    """The setting of the run that a user's field of this name sets."""
    if name in _MORE_NAMES:
        return _MORE_NAMES[name]
    for holder, cls in (("training_parameters", TrainingParameters), ("device_parameters", DeviceParameters)):
        field = cls.OTHER_NAMES.get(name, name)
        if field in field_names(cls):
            return f"{holder}.{field}"
    return None


def _move(given: Given, name: str, goal: str) -> Problem | None:
    value = given.value(name)
    if goal in given.overridden:
        return None
    if goal not in given.moved and given.is_given(goal):
        if given.value(goal) == value:
            return None
        message = f"{value!r} contradicts {goal} {given.value(goal)!r}, which is set too"
        return given.problem(name, message, "keep one of the two")
    holder, _, key = goal.partition(".")
    try:
        setattr(given.value(holder), key, value)
    except ConfigError as error:
        return given.problem(name, error.problems[0].message, error.problems[0].hint)
    given.moved[goal] = name
    return None


def _is_read(given: Given, name: str) -> bool:
    """Whether code of the file reads an attribute of this name."""
    tree = given.sources.tree(given.path)
    return tree is not None and any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load) for node in ast.walk(tree)
    )
