"""From a configuration object to the values of the eight groups, which every run is assembled from."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from ironloom.config.code import quickstart
from ironloom.config.code.given import DEFAULT, Given
from ironloom.config.code.hidden import referring
from ironloom.config.graph import Path, walk
from ironloom.config.groups.gathered import Gathered
from ironloom.errors import Origin, Problem
from ironloom.settings.base import field_names
from ironloom.settings.data import DataGroup
from ironloom.settings.dream.world import world_size
from ironloom.settings.model import ModelConfig

#: Fields that are keys of groups without any change.
SAME = {
    "seed": "init.seed",
    "init_std": "init.init_std",
    "xavier_init": "init.xavier_init",
    "log_level": "utils.log_level",
    "training_parameters.learning_rate": "optim.max_lr",
    "training_parameters.lr_scheduler": "optim.lr_scheduler",
    "training_parameters.weight_decay": "optim.weight_decay",
    "training_parameters.adam_beta1": "optim.adam_beta1",
    "training_parameters.adam_beta2": "optim.adam_beta2",
    "training_parameters.adam_eps": "optim.adam_eps",
    "training_parameters.gradient_accumulation_steps": "trainer.gradient_accumulation_steps",
    "training_parameters.log_every_n_steps": "trainer.log_interval",
    "training_parameters.num_workers": "trainer.num_workers",
}


class Translation:
    """Values of groups, and which fields of the configuration they come from.

    Attributes:
        found: The groups.
        names: Fields by the keys of groups that they became.
    """

    def __init__(self, given: Given):
        self.given = given
        self.found = Gathered()
        self.names: dict[str, str] = {}

    def put(self, key: str, value: Any, *fields: str) -> None:
        """Set a key of a group that follows from ``fields``; its place is that of the first that was given."""
        origins = [self.given.origin(field) for field in fields]
        self.place(tuple(key.split(".")), value, next((origin for origin in origins if origin != DEFAULT), DEFAULT))
        self.names[key] = next((field for field, origin in zip(fields, origins, strict=True) if origin != DEFAULT), fields[0])

    def place(self, path: Path, value: Any, origin: Origin) -> None:
        """Set a key of a group."""
        group, key = map(str, path)
        self.found.values.setdefault(group, {})[key] = value
        for inner, part in walk(value, path):
            secret = referring(part) if isinstance(part, str) else None
            if secret is not None:
                self.found.secrets[inner] = (secret, False)
        if origin != DEFAULT:
            self.found.origins[path] = self.found.keys[path] = origin

    def back(self, problem: Problem) -> Problem:
        """A problem of the groups in the words of the configuration."""
        field = self.names.get(problem.path, problem.path)
        origin = problem.origin or (self.given.origin(field) if field in self.names.values() else None)
        return dataclasses.replace(problem, path=field, origin=origin, message=self.words(problem.message), hint=self.words(problem.hint))

    def fields(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The fields of the configuration that keys of groups come from; keys that it has no field for are left out."""
        named = [self.names.get(key, key if self._is_part(key) else "") for key in keys]
        return tuple(dict.fromkeys(filter(None, named)))

    def _is_part(self, key: str) -> bool:
        """Whether a key of a group is written the same way here: a part of the model's shape or of the data."""
        group, _, name = key.partition(".")
        known = {"model": ModelConfig, "data": DataGroup}.get(group)
        return known is not None and name.partition(".")[0] in field_names(known)

    def words(self, text: str) -> str:
        """A text with the fields of the configuration in place of the keys of groups."""
        return re.sub(r"\b[a-z]+\.[a-z]\w+\b", lambda match: self.names.get(match[0], match[0]), text)


def translate(given: Given) -> Translation:
    """The groups that a configuration stands for."""
    groups = Translation(given)
    for field, key in SAME.items():
        groups.put(key, given.value(field), field)
    _model(given, groups)
    _data(given, groups)
    _optim(given, groups)
    _trainer(given, groups)
    _operation(given, groups)
    return groups


def _model(given: Given, groups: Translation) -> None:
    model = given.value("model")
    if isinstance(model, ModelConfig):
        defaults = ModelConfig().to_dict()
        for key, value in model.to_dict().items():
            origin = given.origin(f"model.{key}")
            if value != defaults[key] or origin != given.origin("model"):
                groups.place(("model", key), value, origin)
    else:
        for key, value in copy.deepcopy(quickstart.MODEL).items():
            groups.place(("model", key), value, DEFAULT)
        for key, field in given.shape.items():
            groups.put(f"model.{key}", given.value(field), field)
    if not isinstance(model, ModelConfig) or given.is_given("device_parameters.param_dtype"):
        groups.put("model.precision", given.value("device_parameters.param_dtype"), "device_parameters.param_dtype")


def _data(given: Given, groups: Translation) -> None:
    data = given.value("data")
    if data is None:
        for key, value in copy.deepcopy(quickstart.DATA).items():
            groups.place(("data", key), value, DEFAULT)
        return
    defaults = type(data)().to_dict()
    for key, value in data.to_dict().items():
        origin = given.origin(f"data.{key}")
        if value != defaults[key] or origin != given.origin("data"):
            groups.place(("data", key), value, origin)


def _optim(given: Given, groups: Translation) -> None:
    training = given.value("training_parameters")
    groups.put("optim.clip_grad", training.gradient_clip_val or 0.0, "training_parameters.gradient_clip_val")
    least = training.min_lr
    if least is None:
        optimizer = given.value("optimizer")
        own = optimizer.keywords.get("lr") if isinstance(optimizer, functools.partial) else None
        least = training.learning_rate / 10 if optimizer is None else own / 10 if isinstance(own, float) else 0.0
    # With an optimizer of its own the rate's top is unknown here, and only the schedule's end counts.
    if given.value("optimizer") is not None:
        groups.put("optim.max_lr", max(training.learning_rate, least), "optimizer")
    groups.put("optim.min_lr", least, "training_parameters.min_lr", "training_parameters.learning_rate")
    warmup = training.warmup_steps
    if warmup is None:
        warmup = quickstart.WARMUP_STEPS if training.is_default_length else 0
    groups.put("optim.warmup_steps", warmup, "training_parameters.warmup_steps")


def _trainer(given: Given, groups: Translation) -> None:
    training, ranks = given.value("training_parameters"), _ranks(given)
    names = ("project", "group", "experiment")
    parts = [given.value(name) for name in names if given.value(name)]
    folder = pathlib.Path(given.value("checkpoint_parameters.root_dir"), *parts)
    groups.put("trainer.model_path", str(folder), *reversed(names), "checkpoint_parameters.root_dir")
    groups.put("trainer.micro_batch_size", training.train_batch_size // ranks, "training_parameters.train_batch_size")
    if training.val_batch_size is not None:
        groups.put("trainer.eval_batch_size", training.val_batch_size // ranks, "training_parameters.val_batch_size")
    groups.put("trainer.do_eval", given.evaluates, "training_parameters.val_frequency", "training_parameters.val_every_n_steps")


def _operation(given: Given, groups: Translation) -> None:
    training = given.value("training_parameters")
    length = ("training_parameters.train_steps_per_epoch", "training_parameters.n_epochs")
    # A run over epochs has its number of steps from the data: what stands here is replaced.
    groups.put("operation.train_steps", training.max_steps or 10**9, *length)
    samples = quickstart.EVAL_SAMPLES
    if training.val_steps_per_epoch is not None:
        samples = training.val_steps_per_epoch * (training.val_batch_size or training.train_batch_size)
    groups.put("operation.eval_samples", samples, "training_parameters.val_steps_per_epoch")
    groups.put("operation.no_save", not given.value("checkpoint_parameters.enable"), "checkpoint_parameters.enable")


def _ranks(given: Given) -> int:
    return given.value("device_parameters").data_parallel() or world_size() or 1
