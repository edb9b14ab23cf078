"""What keeps a configuration that is right from being run: features that do not exist yet, settings that nothing would read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ironloom.config.code.given import Given
from ironloom.config.validate import settings_problems
from ironloom.errors import Problem
from ironloom.settings.base import field_names
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.training import TrainingArguments

_OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps")
_SCHEDULE = ("lr_scheduler", "warmup_steps", "min_lr")


def problems(given: Given) -> Iterator[Problem]:
    """Every reason, each with its place."""
    yield from _unavailable(given)
    yield from _without_effect(given)
    yield from _contradictions(given)
    yield from _arguments(given)


def _unavailable(given: Given) -> Iterator[Problem]:
    for name in field_names(type(given.config)):
        part = given.value(name)
        if isinstance(part, BaseConfig):
            for problem in part.unavailable():
                path = f"{name}.{problem.path}"
                yield dataclasses.replace(problem, path=path, origin=given.origin(path))


def _without_effect(given: Given) -> Iterator[Problem]:
    for owner, keys in (("optimizer", _OPTIMIZER), ("lr_scheduler", _SCHEDULE)):
        if given.value(owner) is None:
            continue
        for key in keys:
            path = f"training_parameters.{key}"
            if given.is_given(path):
                yield given.problem(path, f"has no effect: the configuration has an {owner} of its own", f"write it in {owner}")
    if callable(given.value("model")):
        for key in ("init_std", "xavier_init"):
            if given.is_given(key):
                yield given.problem(key, "has no effect: the configuration has a model of its own", "write it in model")
    steps = "training_parameters.val_steps_per_epoch"
    if given.value("train_dataset") is not None and given.is_given(steps) and given.value(steps) is not None:
        yield given.problem(steps, "has no effect on an eval_dataset of its own", "make the dataset shorter")
    if not given.evaluates:
        is_off = given.value("training_parameters.val_frequency") == 0
        why, hint = ("val_frequency is 0", "set val_frequency") if is_off else ("there is no eval_dataset", "give eval_dataset")
        for key in ("val_frequency", "val_every_n_steps", "num_sanity_val_steps", "val_batch_size", "val_steps_per_epoch"):
            if given.value(f"training_parameters.{key}"):
                yield given.problem(f"training_parameters.{key}", f"has no effect: {why}", f"leave it out, or {hint}")
        if given.value("checkpoint_parameters.monitor") is not None:
            where = next((key for key in ("monitor", "mode") if given.is_given(f"checkpoint_parameters.{key}")), "resume_mode")
            path = f"checkpoint_parameters.{where}"
            yield given.problem(path, f"needs validations to rank checkpoints, and {why}", hint)


def _contradictions(given: Given) -> Iterator[Problem]:
    model, dtype = given.value("model"), given.value("device_parameters.param_dtype")
    path = "device_parameters.param_dtype"
    said = getattr(model, "precision", None)
    if said not in (None, "bfloat16", dtype) and given.is_given(path):
        yield given.problem(path, f"{dtype!r} contradicts the model's precision {said!r}", "keep one of the two")


def _arguments(given: Given) -> Iterator[Problem]:
    for problem in settings_problems(TrainingArguments, given.value("trainer_args")):
        # Rules across fields are looked at in the graph, where the other arguments are.
        if problem.path in given.value("trainer_args"):
            yield dataclasses.replace(problem, path=f"trainer_args.{problem.path}", origin=given.origin("trainer_args", problem.path))
