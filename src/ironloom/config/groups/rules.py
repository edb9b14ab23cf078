"""What a grouped configuration must satisfy: every key in its group, then across groups."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.config import secrets
from ironloom.config.groups import across, batch
from ironloom.config.groups.across import Facts
from ironloom.config.groups.gathered import DATA_FILE, SCHEMAS, Gathered
from ironloom.config.groups.owners import with_owner
from ironloom.config.validate import as_path, below, in_order, is_unknown_key, nearest_origin, settings_problems
from ironloom.errors import ConfigError, Problem
from ironloom.settings.data import entries_problems
from ironloom.settings.groups import (
    DataFile,
    DataGroup,
    InitGroup,
    OperationGroup,
    OptimGroup,
    ParallelGroup,
    TrainerGroup,
    UtilsGroup,
)
from ironloom.settings.model import ModelConfig

LONG = 8  # a secret of so many characters is looked for in every message


@dataclass
class Groups:
    """The eight groups, valid, what a data file says besides, and the batch sizes that follow from them."""

    model: ModelConfig
    init: InitGroup
    optim: OptimGroup
    data: DataGroup
    parallel: ParallelGroup
    trainer: TrainerGroup
    operation: OperationGroup
    utils: UtilsGroup
    batch: batch.Batch
    data_file: DataFile = field(default_factory=DataFile)


def validate(found: Gathered, environment: Mapping[str, str]) -> Groups:
    """The groups as typed settings.

    Args:
        found: What was given.
        environment: Environment variables; ``WORLD_SIZE`` and its like are read.

    Raises:
        ConfigError: With every problem of all groups.
    """
    wrong = list(found.problems)
    for name, schema in SCHEMAS.items():
        given = found.values.get(name, {})
        problems = settings_problems(schema, given)
        if problems and schema is DataGroup:  # else they would wait for the keys of the group
            problems = list(dict.fromkeys([*problems, *entries_problems(given)]))
        for problem in problems:
            # What could not even be read has been reported.
            if not _covered(below(name, problem).path, found.problems):
                wrong.append(_placed(found, with_owner(below(name, problem), found)))
    facts = Facts(found, wrong)
    sizes = across.batch_sizes(facts, environment)
    problems = [*across.problems(facts, environment), *_secret_problems(found)]
    if isinstance(sizes, Problem):
        problems.append(sizes)
    wrong += [_placed(found, problem) for problem in problems]
    if wrong or not isinstance(sizes, batch.Batch):
        raise ConfigError(in_order(_shown(problem, found, environment) for problem in wrong))
    groups: dict[str, Any] = {name: schema(**found.values.get(name, {})) for name, schema in SCHEMAS.items()}
    return Groups(**groups, batch=sizes)


def _covered(path: str, problems: list[Problem]) -> bool:
    return any(path == problem.path or path.startswith(f"{problem.path}.") for problem in problems if problem.path)


def _placed(found: Gathered, problem: Problem) -> Problem:
    """The problem with its origin: of the key if that is unknown, else of the value."""
    if problem.origin is not None:
        return problem
    path = as_path(problem.path)
    tables = (found.keys, found.origins) if is_unknown_key(problem) or " belongs to " in problem.message else (found.origins,)
    return dataclasses.replace(problem, origin=nearest_origin(path, *tables) or found.origins.get(()))


def _shown(problem: Problem, found: Gathered, environment: Mapping[str, str]) -> Problem:
    """The problem without what secrets hold, and without names of our own."""
    held = [value for name, value in environment.items() if secrets.is_secret(name) and len(value) >= LONG]
    held += [value for value in map(found.value, found.secrets) if isinstance(value, str) and value]
    message, hint = problem.message, problem.hint
    for value in sorted(held, key=len, reverse=True):
        message, hint = (text.replace(repr(value), secrets.HIDDEN).replace(value, secrets.HIDDEN) for text in (message, hint))
    if any(".".join(map(str, place)).startswith(problem.path or ".") for place in found.secrets):
        # A value may be shown in part, or as a number.
        message = re.sub(rf", found (?!{re.escape(secrets.HIDDEN)}$).*", f", found {secrets.HIDDEN}", message)
    path = f"data{problem.path.removeprefix(DATA_FILE)}" if problem.path.startswith(DATA_FILE) else problem.path
    return dataclasses.replace(problem, message=message, path=path, hint=hint)


def _secret_problems(found: Gathered) -> list[Problem]:
    """Secrets in keys that others are derived from, or that are shown."""
    allowed = ("model.vocab_name_or_path", "data_file.vocab_name_or_path", "data.", "utils.")
    return [
        Problem(
            "a secret would become part of what is shown and written",
            ".".join(map(str, path)),
            hint="name the variable without KEY, TOKEN, PASSWORD and the like if it holds no secret",
        )
        for path in found.secrets
        if not ".".join(map(str, path)).startswith(allowed) or path == ("utils", "log_level")
    ]
