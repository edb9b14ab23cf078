"""What a grouped configuration must satisfy: every key in its group, then across groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.config.groups import batch
from ironloom.config.groups.gathered import Gathered
from ironloom.config.validate import as_path, below, in_order, is_unknown_key, nearest_origin, settings_problems
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.base import Settings, field_names, nearest
from ironloom.settings.groups import (
    GROUPS,
    DataGroup,
    InitGroup,
    OperationGroup,
    OptimGroup,
    ParallelGroup,
    TrainerGroup,
    UtilsGroup,
)
from ironloom.settings.model import ModelConfig

PROCESS = {"rank": ("RANK", -1, 0), "local_rank": ("LOCAL_RANK", 0, 0), "world_size": ("WORLD_SIZE", 1, 1)}


@dataclass
class Groups:
    """The eight groups, valid, and the batch sizes that follow from them."""

    model: ModelConfig
    init: InitGroup
    optim: OptimGroup
    data: DataGroup
    parallel: ParallelGroup
    trainer: TrainerGroup
    operation: OperationGroup
    utils: UtilsGroup
    batch: batch.Batch


def validate(found: Gathered, environment: Mapping[str, str]) -> Groups:
    """The groups as typed settings.

    Args:
        found: What was given.
        environment: Environment variables; ``WORLD_SIZE`` and its like are read.

    Raises:
        ConfigError: With every problem of all groups.
    """
    problems = list(found.problems)
    groups: dict[str, Any] = {}
    for name, schema in GROUPS.items():
        values = found.values.get(name, {})
        wrong = settings_problems(schema, values)
        problems += [_with_owner(_placed(found, below(name, problem))) for problem in wrong]
        if not wrong:
            groups[name] = schema(**values)
    sizes = _batch(found, groups, environment)
    across = [*_environment(groups, environment), *_schedule(groups), *_datasets(groups), *_tokenizer(groups)]
    if isinstance(sizes, Problem):
        across.append(sizes)
    problems += [_placed(found, problem) for problem in across]
    if problems or not isinstance(sizes, batch.Batch):
        raise ConfigError(in_order(problems))
    return Groups(**groups, batch=sizes)


def _placed(found: Gathered, problem: Problem) -> Problem:
    """The problem with its origin: of the key if that is unknown, else of the value."""
    path = as_path(problem.path)
    tables = (found.keys, found.origins) if is_unknown_key(problem) else (found.origins,)
    return dataclasses.replace(problem, origin=nearest_origin(path, *tables))


def _with_owner(problem: Problem) -> Problem:
    """The problem; of an unknown key that is meant for another group, with that group."""
    group, _, key = problem.path.partition(".")
    if not is_unknown_key(problem) or "." in key:
        return problem
    for other, schema in GROUPS.items():
        if key in field_names(schema):
            return dataclasses.replace(problem, message=f"{key} belongs to {other}", hint=f"write it as {other}.{key}")
    if nearest(key, field_names(GROUPS[group])) is None:
        for other, schema in GROUPS.items():
            near = nearest(key, field_names(schema))
            if near:
                return dataclasses.replace(problem, hint=f"did you mean {near!r} of {other}?")
    return problem


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(Problem(f"expected a whole number, found {text!r}", name, Origin("environment", route="environment")))
    return int(text)


def _batch(found: Gathered, groups: Mapping[str, Any], environment: Mapping[str, str]) -> batch.Batch | Problem | None:
    trainer = groups.get("trainer")
    if trainer is None:
        return None
    micro = trainer.micro_batch_size
    if not found.given("trainer", "micro_batch_size") and trainer.train_batch_size and trainer.gradient_accumulation_steps:
        micro = None
    ranks = _number(environment, "WORLD_SIZE", 1)
    sizes = batch.resolve(micro, trainer.gradient_accumulation_steps, trainer.train_batch_size, ranks)
    return below("trainer", sizes) if isinstance(sizes, Problem) else sizes


def _environment(groups: Mapping[str, Settings], environment: Mapping[str, str]) -> Iterator[Problem]:
    """Process numbers in a file can only repeat what the launcher says."""
    if "parallel" not in groups:
        return
    for key, (variable, default, alone) in PROCESS.items():
        value, actual = getattr(groups["parallel"], key), _number(environment, variable, alone)
        if value not in (default, actual):
            message = f"{value} is not what the environment says: {actual}"
            yield Problem(message, f"parallel.{key}", hint=f"leave the key out; the launcher sets {variable}")


def _schedule(groups: Mapping[str, Any]) -> Iterator[Problem]:
    if "optim" not in groups or "operation" not in groups:
        return
    warmup, steps = groups["optim"].warmup_steps, groups["operation"].train_steps
    if warmup > steps:
        message = f"the warm-up of {warmup} steps is longer than the run of operation.train_steps {steps}"
        yield Problem(message, "optim.warmup_steps", hint=f"at most {steps}")


def _datasets(groups: Mapping[str, Any]) -> Iterator[Problem]:
    if "data" not in groups:
        return
    data = groups["data"]
    if not data.train_datasets:
        yield Problem("nothing to train on", "data.train_datasets", hint="for example: train_datasets: [python-docs]")
    elif "trainer" in groups and groups["trainer"].do_eval and data.splits[1] == 0 and not data.eval_datasets:
        yield Problem("evaluates, but there is nothing to evaluate on", "trainer.do_eval", hint="set data.eval_datasets or data.splits")


def _tokenizer(groups: Mapping[str, Any]) -> Iterator[Problem]:
    model = groups.get("model")
    if model is not None and model.tokenizer_type == "llama" and model.vocab_name_or_path is None:
        yield Problem("a llama tokenizer is loaded, not trained", "model.vocab_name_or_path", hint="name its folder or Hugging Face id")
