"""A configuration file that has a trainer of its own: a subclass of DreamTrainer, which reads the configuration itself."""

from __future__ import annotations

import types
from typing import Any

from ironloom.config.code.given import Given
from ironloom.config.code.values import Converter
from ironloom.config.graph import Graph, Node
from ironloom.errors import ConfigError, Origin, Problem

_STEPS = "ironloom.data:steps_of_epochs"


def own_trainer(module: types.ModuleType, file: str) -> type | None:
    """The trainer that a file defines; None if it defines none.

    Raises:
        ConfigError: If it defines several.
    """
    found = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__ and _is_dream(value)
    ]
    leaves = [cls for cls in dict.fromkeys(found) if not any(other is not cls and issubclass(other, cls) for other in found)]
    if len(leaves) > 1:
        names = ", ".join(cls.__name__ for cls in leaves)
        hint = "keep one in the file, or call fit() of the one that is meant in a script"
        raise ConfigError(Problem(f"there are {len(leaves)} trainers in the file: {names}", origin=Origin(file), hint=hint))
    return leaves[0] if leaves else None


def let_train(graph: Graph, trainer: type, given: Given, convert: Converter) -> None:
    """Make a trainer of the user's own the run's; what only the other trainers read is left out of the graph."""
    arguments: Node = graph.root["trainer_args"]
    main = graph.root["main"]
    epochs = {
        name: value.kwargs["epochs"] for name, value in arguments.kwargs.items() if isinstance(value, Node) and value.target == _STEPS
    }
    for name in epochs:
        del arguments.kwargs[name]
        _forget(graph, ("trainer_args", name))
    uses_data = _owner(trainer, "configure_dataloaders").startswith("ironloom.") and given.value("train_dataset") is None
    kept = {"log_level", "trainer_args", *(("data", "test_dataset") if uses_data else ())}
    for name in [name for name in graph.root if name not in kept]:
        del graph.root[name]
        _forget(graph, (name,))
    test = graph.root.pop("test_dataset", None)
    config = convert(given.config, "config", Origin(given.file))
    kwargs: dict[str, Any] = {"config": config, "args": main.kwargs["args"]}
    if epochs:
        kwargs["epochs"] = epochs
    graph.root["main"] = Node(f"{given.path}:{trainer.__qualname__}", kwargs=kwargs, origin=Origin(given.file))
    if test is not None:
        graph.root["test_dataset"] = test


def _is_dream(cls: type) -> bool:
    """Whether a class derives from DreamTrainer, which this module must not import."""
    return any(base.__name__ == "DreamTrainer" and base.__module__.startswith("ironloom.trainer.") for base in cls.__mro__)


def _owner(cls: type, method: str) -> str:
    return next(base.__module__ for base in cls.__mro__ if method in vars(base))


def _forget(graph: Graph, path: tuple[str, ...]) -> None:
    for table in (graph.origins, graph.keys, graph.earlier):
        for there in [there for there in table if there[: len(path)] == path]:
            del table[there]
