"""Configuration as code: a Python file that makes one object, whose settings become the same graph as every other style's.

The file is executed. It is trusted input, like any program that one runs.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterable

from ironloom.config import overrides as command_line
from ironloom.config.code import overrides as own_overrides
from ironloom.config.code import runnable
from ironloom.config.code.assemble import assemble
from ironloom.config.code.given import Given
from ironloom.config.code.history import note_earlier
from ironloom.config.code.own_fields import forward, unused
from ironloom.config.code.own_trainer import let_train, own_trainer
from ironloom.config.code.values import Converter
from ironloom.config.graph import Graph
from ironloom.config.validate import in_order
from ironloom.environment import environment
from ironloom.errors import ConfigError, Problem
from ironloom.settings.dream import BaseTrainerConfig, CheckpointParameters, DreamTrainerConfig
from ironloom.settings.dream.files import from_file, split
from ironloom.settings.dream.source import Sources

__all__ = ["load"]

logger = logging.getLogger("ironloom")


def load(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Graph:
    """The graph of a configuration in Python.

    Args:
        path: The file, executed; ``config.py:name`` picks an object, or a function without arguments that returns one.
        overrides: ``field.field=value`` of the object, or ``target.argument=value`` of the graph.

    Raises:
        ConfigError: With every problem, and the line of the file where it fails.
    """
    picked = from_file(path, BaseTrainerConfig)
    file, absolute = str(split(path)[0]), str(picked.module.__file__)
    given = Given(picked.value, file, absolute, Sources({absolute: file}))
    convert = Converter(picked.module)
    texts = list(overrides)
    mine, theirs, problems = own_overrides.split(given, texts)
    before = None
    if texts:
        with contextlib.suppress(ConfigError):  # what is overridden may be what is wrong
            before = _graph(given, convert)
    problems += own_overrides.apply(given, mine)
    try:
        graph = _graph(given, Converter(picked.module))
    except ConfigError as error:
        known = {problem.path for problem in problems}
        raise ConfigError(in_order([*problems, *(each for each in error.problems if each.path not in known)])) from None
    if problems:
        raise ConfigError(in_order(problems))
    idle = unused(given)
    if idle:
        logger.warning("%s: nothing reads %s: use it in a model, an optimizer ...", file, ", ".join(idle))
    with environment({"WORLD_SIZE": None}):  # without a launcher: the defaults need not fit its number of processes
        nothing = Given(DreamTrainerConfig(), file, absolute, given.sources)
        default = assemble(nothing, convert)
    note_earlier(graph, default, before)
    command_line.apply(graph, theirs)
    trainer = own_trainer(picked.module, file)
    if trainer is not None:
        let_train(graph, trainer, given, convert)
    return graph


def _graph(given: Given, convert: Converter) -> Graph:
    """The graph of a configuration as it is now.

    Raises:
        ConfigError: With everything that keeps it from being run.
    """
    problems = [*_adopt_checkpoints(given), *forward(given), *runnable.problems(given)]
    try:
        graph = assemble(given, convert)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return graph


def _adopt_checkpoints(given: Given) -> Iterable[Problem]:
    """Let the settings of a checkpoint callback be those of the run."""
    for index, callback in enumerate(given.value("callbacks") or ()):
        args, kwargs = getattr(callback, "_recorded", ((), {}))
        for parameters in (*args, *kwargs.values()):
            if not isinstance(parameters, CheckpointParameters) or parameters is given.value("checkpoint_parameters"):
                continue
            if given.is_given("checkpoint_parameters"):
                message = "contradicts the CheckpointParameters of the callback"
                yield given.problem("checkpoint_parameters", message, f"give them once: here, or to callbacks.{index}")
            else:
                given.adopt("checkpoint_parameters", parameters)
