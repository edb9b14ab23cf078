"""The graph of a configuration object: that of the groups it stands for, with what only code can say."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

from ironloom.config.code import quickstart
from ironloom.config.code.given import Given
from ironloom.config.code.translate import translate
from ironloom.config.code.values import Converter
from ironloom.config.graph import Graph, Node, Path, children, is_leaf
from ironloom.config.groups.assemble import assemble as assemble_groups
from ironloom.config.groups.rules import validate
from ironloom.errors import ConfigError, Origin
from ironloom.settings.dream.base import BaseConfig

DEVICES = "device_parameters"
TRAINING = "training_parameters"
CHECKPOINTS = "checkpoint_parameters"
#: Fields that arguments of the trainer say.
_TOLD = ("param_dtype", "error_if_nonfinite")
_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16"}


def assemble(given: Given, convert: Converter) -> Graph:
    """The graph of a valid configuration.

    Raises:
        ConfigError: With every problem, in the words of the configuration.
    """
    translation = translate(given)
    try:
        graph = assemble_groups(validate(translation.found, os.environ), translation.found)
    except ConfigError as error:
        raise ConfigError([translation.back(problem) for problem in error.problems]) from None
    graph.earlier.clear()
    graph.keys = {path: found for path, keys in graph.keys.items() if (found := translation.fields(keys))}
    run = _Run(graph, given, convert)
    run.parts()
    run.cadence()
    run.arguments()
    run.devices()
    run.callbacks()
    return graph


class _Run:
    """A graph that is being completed."""

    def __init__(self, graph: Graph, given: Given, convert: Converter):
        self.graph, self.given, self.convert = graph, given, convert
        self.main: Node = graph.root["main"]
        self.args: Node = graph.root["trainer_args"]

    def parts(self) -> None:
        """Factories for model, optimizer, schedule and datasets."""
        for field, argument in (("model", "model_init"), ("optimizer", "optimizer_factory"), ("lr_scheduler", "lr_scheduler_factory")):
            if callable(self.given.value(field)):
                self._replace((field,), self.convert(self.given.value(field), field, self.given.origin(field)), field)
                self.main.kwargs[argument] = self.graph.root[field]
        if self.given.value("train_dataset") is None:
            return
        for path in (("data",), ("test_dataset",), ("trainer_args", "remove_unused_columns")):
            self._forget(path)
        del self.graph.root["data"], self.graph.root["test_dataset"], self.args.kwargs["remove_unused_columns"]
        for name, make in (
            ("train_dataset", self.convert.call),
            ("eval_dataset", self.convert.call),
            ("data_collator", self.convert),
            ("processing_class", self.convert.call),
        ):
            value = self.given.value(name)
            made = None if value is None else make(value, name, self.given.origin(name))
            self._replace(("main", name), made, name)

    def cadence(self) -> None:
        """How long, when to validate, when to save."""
        training, saving = self.given.value(TRAINING), self.given.value(CHECKPOINTS)
        length = (f"{TRAINING}.n_epochs", f"{TRAINING}.train_steps_per_epoch")
        if training.max_steps is None:
            self._set("max_steps", -1, *length)
            self._set("num_train_epochs", training.n_epochs, *length)
            if self.given.value("lr_scheduler") is None:
                path = ("lr_scheduler", "total_steps")
                self._replace(path, self._steps(training.n_epochs), *length)
        every = training.val_every_n_steps
        if self.given.evaluates:
            fields = (f"{TRAINING}.val_every_n_steps", f"{TRAINING}.val_frequency", *length)
            epochs = None if every else training.val_frequency or 1.0
            steps = every or (quickstart.EVAL_STEPS if training.is_default_length and training.val_frequency is None else None)
            self._every("eval", steps, epochs, fields)
        if saving.enable:
            names = ("checkpoint_every_n_steps", "checkpoint_every_n_epochs", "checkpoint_every_n_val_epochs")
            steps, epochs = saving.checkpoint_every_n_steps, saving.checkpoint_every_n_epochs
            if saving.checkpoint_every_n_val_epochs is not None:
                times = saving.checkpoint_every_n_val_epochs
                between = self.args.kwargs["eval_steps"] if self.args.kwargs["eval_strategy"] == "steps" else None
                steps, epochs = (between * times, None) if isinstance(between, int) else (None, times * (training.val_frequency or 1))
            if steps is None and epochs is None:
                steps, epochs = (quickstart.SAVE_STEPS, None) if training.is_default_length else (None, 1)
            self._every("save", steps, epochs, (*(f"{CHECKPOINTS}.{name}" for name in names), *length))

    def _every(self, what: str, steps: int | None, epochs: float | None, fields: tuple[str, ...]) -> None:
        """Set strategy and interval of ``eval`` or ``save``."""
        per_epoch = self.given.value(TRAINING).steps_per_epoch
        if steps is None and per_epoch is not None:
            steps = max(1, round((epochs or 1) * per_epoch))
        if steps is not None:
            self._set(f"{what}_steps", steps, *fields)
        elif epochs == 1:
            self._set(f"{what}_strategy", "epoch", *fields)
        else:
            self._set(f"{what}_steps", self._steps(epochs or 1), *fields)

    def _steps(self, epochs: float) -> Node:
        """Optimizer steps that depend on the length of the data."""
        training = self.given.value(TRAINING)
        samples = training.train_batch_size * training.gradient_accumulation_steps
        dataset = self._named_dataset()
        return Node("ironloom.data:steps_of_epochs", kwargs={"dataset": dataset, "samples_per_step": samples, "epochs": epochs})

    def _named_dataset(self) -> Any:
        """The training dataset, as a target that stands before everything that needs it."""
        root, dataset = self.graph.root, self.main.kwargs["train_dataset"]
        if "train_dataset" not in root:
            rest = {name: root.pop(name) for name in list(root) if name not in ("log_level", "data")}
            root.update({"train_dataset": dataset, **rest})
            self._rename(self.graph.origins)
            self._rename(self.graph.keys)
        return dataset

    def _rename(self, table: dict[Path, Any]) -> None:
        """Note of the dataset as a target what was noted of it as the trainer's argument."""
        for path in [path for path in table if path[:2] == ("main", "train_dataset")]:
            table[path[1:]] = table.pop(path)

    def arguments(self) -> None:
        """Arguments of the trainer that no group has."""
        saving = self.given.value(CHECKPOINTS)
        if not self.given.value(f"{DEVICES}.error_if_nonfinite"):
            self._set("nonfinite_policy", "skip", f"{DEVICES}.error_if_nonfinite")
        if saving.keep_top_k is not None:
            self._set("save_total_limit", saving.keep_top_k if saving.keep_top_k > 0 else None, f"{CHECKPOINTS}.keep_top_k")
        if saving.model_weights_only:
            for name in ("save_optimizer_state", "save_scheduler_state"):
                self._set(name, False, f"{CHECKPOINTS}.model_weights_only")
        if saving.async_save:
            self._set("async_save", True, f"{CHECKPOINTS}.async_save")
        if saving.resume_path is not None:
            path = self.convert(str(saving.resume_path), f"{CHECKPOINTS}.resume_path")
            self._set("resume_from_checkpoint", path, f"{CHECKPOINTS}.resume_path")
        for name, value in self.given.value("trainer_args").items():
            origin = self.given.origin("trainer_args", name)
            self._replace(("trainer_args", name), self.convert(value, f"trainer_args.{name}", origin), "trainer_args", inner=(name,))

    def devices(self) -> None:
        """How processes share the work, where that is more than a copy of the model for each."""
        kwargs = self._devices(DEVICES, _TOLD)
        if not kwargs:
            return
        kwargs["param_dtype"] = next((name for flag, name in _PRECISIONS.items() if self.args.kwargs[flag]), "float32")
        node = Node("ironloom.settings:DeviceParameters", kwargs=kwargs)
        main = self.graph.root.pop("main")
        rest = {name: self.graph.root.pop(name) for name in list(self.graph.root) if name == "test_dataset"}
        self.graph.root.update({"device_parameters": node, "main": main, **rest})
        main.kwargs["device_parameters"] = node
        self.graph.origins[(DEVICES,)] = self.given.origin(DEVICES)
        for name, value in kwargs.items():
            inner = [(name, key) for key in value.kwargs] if isinstance(value, Node) else [(name,)]
            for path in inner:
                self.graph.origins[DEVICES, *path] = self.given.origin(".".join((DEVICES, *path)))

    def _devices(self, path: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Settings of devices that are not as they are for everybody."""
        holder, found = self.given.value(path), {}
        for field in dataclasses.fields(holder):
            value = getattr(holder, field.name)
            if isinstance(value, BaseConfig):
                inner = self._devices(f"{path}.{field.name}")
                if inner:
                    found[field.name] = Node(f"ironloom.settings:{type(value).__name__}", kwargs=inner)
            elif field.name not in without and value != field.default:
                found[field.name] = value
        return found

    def callbacks(self) -> None:
        """The user's callbacks, and those that settings ask for."""
        training, saving = self.given.value(TRAINING), self.given.value(CHECKPOINTS)
        made: list[Any] = []
        places: list[Callable[[Path], Origin]] = []

        def add(node: Any, place: Callable[[Path], Origin]) -> None:
            made.append(node)
            places.append(place)

        if training.num_sanity_val_steps:
            field = f"{TRAINING}.num_sanity_val_steps"
            add(Node("ironloom.callbacks:SanityCheck", kwargs={"num_batches": training.num_sanity_val_steps}), self._at(field))
        given = [callback for callback in self.given.value("callbacks") or () if callback is not None]
        written = self.given.positions("callbacks", [_class_name(callback) for callback in given])
        for index, callback in enumerate(given):
            front: Path = () if written is None else (written[index],)
            make = self.convert.call if callable(callback) else self.convert
            node = make(callback, f"callbacks.{index}", self.given.origin("callbacks", *front))
            add(node, lambda path, front=front: self.given.origin("callbacks", *front, *(path if front else ())))  # type: ignore[misc]
        self._loggers(made, add)
        if saving.enable and saving.monitor is not None and not _holds(made, "CheckpointCallback"):
            parameters = self.convert(saving, CHECKPOINTS, self.given.origin(CHECKPOINTS))
            kwargs = {name: value for name, value in parameters.kwargs.items() if name != "root_dir"}
            kwargs["root_dir"] = str(saving.root_dir)
            node = Node("ironloom.callbacks:CheckpointCallback", kwargs={"parameters": Node(parameters.target, kwargs=kwargs)})
            add(node, self._in_checkpoints)
        for node in made:
            first = node.args[0] if node.args else None
            parameters = node.kwargs.get("parameters", first) if _is(node, "CheckpointCallback") else None
            if isinstance(parameters, Node):
                self._follow_arguments(parameters.kwargs)
        self.main.kwargs["callbacks"] = made
        self._forget(("main", "callbacks"))
        self.graph.origins["main", "callbacks"] = self.given.origin("callbacks")
        for index, (node, place) in enumerate(zip(made, places, strict=True)):
            self._note(("main", "callbacks", index), node, place)

    def _in_checkpoints(self, path: Path) -> Origin:
        """Where a parameter of the checkpoint callback that settings ask for comes from."""
        if len(path) < 2:
            return self.given.origin(f"{CHECKPOINTS}.monitor")
        names = [str(path[1])]
        if names[0].startswith("checkpoint_every_n_"):
            names = [name for name in vars(self.given.value(CHECKPOINTS)) if name.startswith("checkpoint_every_n_")]
        return self.given.origin(
            next((f"{CHECKPOINTS}.{name}" for name in names if self.given.is_given(f"{CHECKPOINTS}.{name}")), CHECKPOINTS)
        )

    def _follow_arguments(self, saving: dict[str, Any]) -> None:
        """Let a checkpoint callback save where the trainer's arguments say, so that nothing is saved twice."""
        if saving.get("keep_top_k", 1) < 1:
            del saving["keep_top_k"]  # all of them, which the arguments say
        cadences = [name for name in saving if name.startswith("checkpoint_every_n_")]
        for name in cadences:
            del saving[name]
        if cadences and self.args.kwargs["save_strategy"] == "steps":
            saving["checkpoint_every_n_steps"] = self.args.kwargs["save_steps"]
        elif cadences:
            saving["checkpoint_every_n_epochs"] = 1

    def _loggers(self, made: list[Any], add: Callable[[Any, Callable[[Path], Origin]], None]) -> None:
        """What the tracker is told by the configuration: its settings, and the names of the run."""
        settings = self.given.value("logging_parameters")
        if settings is not None and settings.enabled and not _holds(made, "LoggerCallback"):
            add(Node("ironloom.callbacks:LoggerCallback"), self._at("logging_parameters"))
        for node in made:
            if not _is(node, "LoggerCallback"):
                continue
            if settings is not None and "parameters" not in node.kwargs and len(node.args) < 2:
                node.kwargs["parameters"] = self.convert(settings, "logging_parameters", self.given.origin("logging_parameters"))
            for position, name in enumerate(("project", "group", "experiment"), start=2):
                if name not in node.kwargs and len(node.args) <= position and self.given.value(name):
                    node.kwargs[name] = self.convert(self.given.value(name), name, self.given.origin(name))

    def _at(self, field: str) -> Callable[[Path], Origin]:
        return lambda path: self.given.origin(field)

    def _set(self, name: str, value: Any, *fields: str) -> None:
        """Set an argument of the trainer that follows from fields."""
        self._replace(("trainer_args", name), value, *fields)

    def _replace(self, path: Path, value: Any, *fields: str, inner: tuple[str, ...] = ()) -> None:
        """Set a target or an argument of one; its place is that of the first field that was given."""
        self._forget(path)
        holder = self.graph.root if len(path) == 1 else self.graph.root[str(path[0])].kwargs
        holder[str(path[-1])] = value
        field = next((field for field in fields if self.given.is_given(field)), fields[0])
        self._note(path, value, lambda below: self.given.origin(field, *inner, *below))
        self.graph.keys[path] = fields

    def _note(self, path: Path, value: Any, place: Callable[[Path], Origin]) -> None:
        """Note the places of what is in a value, up to what has another place."""
        self.graph.origins.setdefault(path, place(()))
        known = [*self.graph.root.values(), *(self.args.kwargs.values() if path[0] == "main" else ())]
        targets = {id(target) for target in known if isinstance(target, Node) and target is not value}
        below: list[tuple[Path, Any]] = [((key,), part) for key, part in children(value)]
        while below:
            inner, part = below.pop()
            if is_leaf(part):
                self.graph.origins.setdefault((*path, *inner), place(inner))
            elif id(part) not in targets:
                below += [((*inner, key), child) for key, child in children(part)]

    def _forget(self, path: Path) -> None:
        for table in (self.graph.origins, self.graph.keys):
            for there in [there for there in table if there[: len(path)] == path]:
                del table[there]


def _class_name(callback: Any) -> str:
    """The name by which a callback, or a factory of one, is called in the source."""
    if isinstance(callback, functools.partial):
        return "partial"
    return callback.__name__ if isinstance(callback, type) else type(callback).__name__


def _is(node: Any, name: str) -> bool:
    return isinstance(node, Node) and node.target == f"ironloom.callbacks:{name}"


def _holds(nodes: list[Any], name: str) -> bool:
    return any(_is(node, name) for node in nodes)
