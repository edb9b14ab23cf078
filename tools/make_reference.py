"""Write the reference pages from the settings classes: every key, its type, its default, what it does.

    python tools/make_reference.py          write docs/reference/
    python tools/make_reference.py --check  exit with 1 if a page is not up to date

The text of a key is the one line that its declaration carries; nothing is written twice.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import os
import pathlib
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import InstanceOf

from ironloom import configs
from ironloom.errors import ConfigError
from ironloom.settings import Lora, PositionalEmbedding, TrainingArguments
from ironloom.settings.base import Settings
from ironloom.settings.groups import GROUPS, DataFile, DatasetEntry

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
GENERATED = "<!-- Written by tools/make_reference.py from the settings classes. Do not edit. -->"
PLAIN = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "any value",
    pathlib.Path: "path",
}
BOUNDS: dict[type, str] = {Ge: "at least {ge:g}", Gt: "more than {gt:g}", Le: "at most {le:g}", Lt: "less than {lt:g}"}


def pages() -> dict[str, str]:
    """Text of every reference page by file name."""
    return {"groups.md": groups_page(), "code.md": code_page(), "training_arguments.md": arguments_page()}


def groups_page() -> str:
    """The eight groups of a grouped configuration."""
    parts = [
        "# Keys of the groups",
        GENERATED,
        "How the groups fit together is told in [configuration.md](../configuration.md). A key that is *not available yet* may be\n"
        "left out or repeat its default; any other value is refused by name.",
    ]
    for name, schema in GROUPS.items():
        parts += [f"## {name}", _summary(schema), table(schema)]
        if name == "model":
            parts += ["### model.positional_embedding", _summary(PositionalEmbedding), table(PositionalEmbedding)]
            parts += ["### model.lora", _summary(Lora), table(Lora)]
        if name == "data":
            parts += ["### entries of data.train_datasets, eval_datasets, test_datasets", _summary(DatasetEntry), table(DatasetEntry)]
            parts += ["### data files", _summary(DataFile), table(DataFile)]
    return "\n\n".join(parts) + "\n"


def code_page() -> str:
    """The classes of a configuration in Python."""
    parts = [
        "# Configuration in Python",
        GENERATED,
        "Classes of `ironloom.configs`. A value is checked when it is set. One that is *not available yet* may be left out or repeat\n"
        "its default; any other value is refused by name when the run is checked.",
    ]
    for name in ("DreamTrainerConfig", "DeviceParameters", "Comm", "TrainingParameters", "CheckpointParameters", "WandBParameters"):
        schema = getattr(configs, name)
        parts += [f"## {name}", _summary(schema), table(schema)]
    return "\n\n".join(parts) + "\n"


def arguments_page() -> str:
    """The arguments of the trainers."""
    intro = (
        "Arguments of `ironloom.TrainingArguments`, for the Python API. A grouped configuration sets them through its keys\n"
        "([groups.md](groups.md)); a `run.yaml` shows them under `trainer_args`."
    )
    return "\n\n".join(["# TrainingArguments", GENERATED, intro, table(TrainingArguments)]) + "\n"


def table(schema: type[Settings]) -> str:
    """One row for each key of a settings class."""
    hints = typing.get_type_hints(schema, include_extras=True)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        planned = field.metadata.get("planned")
        doc = field.metadata["doc"].rstrip(".") + "." + (f" *Not available yet: {planned}.*" if planned else "")
        later = [] if planned else [f"`{value}`" for value in choices(hints[field.name]) if not is_available(schema, field.name, value)]
        doc += f" *Not available yet: {', '.join(later)}.*" if later else ""
        cells = [f"`{field.name}`", described(hints[field.name]), f"`{shown(default_of(field))}`", doc]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def described(annotation: Any) -> str:
    """A type annotation in words.

    Raises:
        TypeError: For an annotation that has no words here yet.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is Annotated and any(isinstance(part, InstanceOf) for part in arguments[1:]):
        return f"`{public_name(arguments[0])}`"
    if origin is Annotated:
        return ", ".join([described(arguments[0]), *filter(None, map(_bound, arguments[1:]))])
    if origin is Literal:
        return ", ".join(f"`{shown(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(described(part) for part in arguments))
    if origin is collections.abc.Callable:
        return "factory"
    if origin in (list, collections.abc.Sequence):
        return f"list of: {described(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin is os.PathLike:
        return "path"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "mapping, see below"
    raise TypeError(f"no words for {annotation!r}")


def public_name(cls: type) -> str:
    """The name under which a class is imported from ``ironloom.configs``."""
    return next(name for name in configs.__all__ if getattr(configs, name) is cls)


def choices(annotation: Any) -> list[Any]:
    """The values that an annotation enumerates, also as a part of a union."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return list(arguments)
    return [value for part in arguments for value in choices(part)]


def is_available(schema: type[Settings], key: str, value: Any) -> bool:
    """Whether a settings class takes a value, or says that its feature is still to come."""
    needed = {"dataset_path": "corpus.txt"} if schema is DatasetEntry else {}
    try:
        schema.from_mapping({**needed, key: value})
    except ConfigError as error:
        return not any("not available yet" in problem.message for problem in error.problems)
    return True


def shown(value: Any) -> str:
    """A value as YAML spells it."""
    if isinstance(value, configs.BaseConfig):
        return f"{type(value).__name__}()"
    if isinstance(value, Settings):
        return "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a key; all keys have one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _summary(schema: type[Settings]) -> str:
    return (inspect.getdoc(schema) or "").splitlines()[0]


def _bound(limit: Any) -> str:
    pattern = BOUNDS.get(type(limit))
    return pattern.format(**dataclasses.asdict(limit)) if pattern else ""


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; returns the exit code."""
    stale = [name for name, text in pages().items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text]
    if arguments == ["--check"]:
        for name in stale:
            print(f"{FOLDER.name}/{name} is not up to date: run python tools/make_reference.py", file=sys.stderr)
        return int(bool(stale))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
