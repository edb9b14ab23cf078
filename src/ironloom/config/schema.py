"""JSON Schema of configuration files, for editors: completion, documentation and errors while typing.

Made from the same declarations as everything else: types, ranges, defaults and the one line of each key.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import types
import typing
from typing import Any, Literal

from pydantic import TypeAdapter

from ironloom.settings.base import Settings
from ironloom.settings.data import DatasetEntry
from ironloom.settings.groups import GROUPS
from ironloom.settings.model import ModelConfig
from ironloom.settings.training import TrainingArguments

DIALECT = "http://json-schema.org/draft-07/schema#"
#: A reference to an environment variable may stand for any value.
REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_]\w*(:[^}]*)?\}"}
#: Settings classes that a run.yaml holds as nodes.
NODES = {"ironloom.settings:TrainingArguments": TrainingArguments, "ironloom.settings:ModelConfig": ModelConfig}
_MODES = ("call", "factory", "partial", "meta")

Schema = dict[str, Any]


def groups_schema() -> Schema:
    """The schema of a grouped configuration."""
    properties: dict[str, Any] = {}
    for name, cls in GROUPS.items():
        inline = settings_schema(cls, references=True)
        inline["properties"] = {
            "preset": {"type": "string", "description": "Name of a preset; the other keys change it."},
            **inline["properties"],
        }
        preset = {"type": "string", "description": f"Name of a preset of the group {name}."}
        properties[name] = {"description": _summary(cls), "anyOf": [inline, preset, {"type": "null"}]}
    entry = settings_schema(DatasetEntry, references=True)
    for key in ("train_datasets", "eval_datasets", "test_datasets"):
        listed = {"type": "array", "items": {"anyOf": [{"type": "string"}, entry]}}
        properties["data"]["anyOf"][0]["properties"][key]["anyOf"] = [listed, {"type": "null"}, REFERENCE]
    return {
        "$schema": DIALECT,
        "title": "Ironloom: configuration by groups",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def run_schema() -> Schema:
    """The schema of a run.yaml, as far as one can say it: editors drop the tags and see the arguments of a node.

    The targets that every run from groups or library templates has are described; any other may stand beside them.
    """
    arguments = settings_schema(TrainingArguments, references=False)
    return {
        "$schema": DIALECT,
        "title": "Ironloom: a resolved configuration",
        "type": "object",
        "properties": {
            "main": {"type": ["object", "array"], "description": "The run: the trainer and everything that it is made of."},
            "trainer_args": {"description": _summary(TrainingArguments), "anyOf": [arguments, {"type": "array"}]},
            "model": {
                "type": ["object", "array"],
                "description": "What makes the model.",
                "properties": {"config": settings_schema(ModelConfig, references=False)},
            },
            "log_level": settings_schema(GROUPS["utils"], references=False)["properties"]["log_level"],
        },
        "required": ["main"],
        "additionalProperties": True,
    }


def tags() -> list[str]:
    """The tags of run.yaml in the form that the YAML language server takes them (``yaml.customTags``)."""
    nodes = [f"!{mode}:{target} {kind}" for target in NODES for mode in _MODES[:1] for kind in ("mapping", "sequence")]
    plain = ["!var scalar", "!var mapping", "!calc scalar", "!tuple sequence", "!list sequence", "!dict mapping", "!dlist mapping"]
    return [*nodes, *plain]


def settings_schema(cls: type[Settings], *, references: bool) -> Schema:
    """The schema of a settings class as a mapping.

    Args:
        cls: The class.
        references: Whether ``${NAME}`` may stand in place of a value.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    properties: dict[str, Schema] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        about: Schema = {"description": _described(field)}
        if field.default is not dataclasses.MISSING:
            about["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            about["default"] = made.to_dict() if isinstance(made, Settings) else made
        if field.metadata.get("planned") and "default" in about:
            properties[field.name] = {**about, "const": about["default"]}
            continue
        value = _annotation_schema(hints[field.name], references)
        if references:
            choices = value.pop("anyOf", None) or [value]
            value = {"anyOf": [*choices, REFERENCE]}
        properties[field.name] = {**about, **value}
    return {"type": "object", "description": _summary(cls), "properties": properties, "additionalProperties": False}


def _annotation_schema(annotation: Any, references: bool) -> Schema:
    """The schema of one annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return settings_schema(annotation, references=references)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_annotation_schema(part, references) for part in typing.get_args(annotation) if typing.get_origin(part) is not os.PathLike]
        return parts[0] if len(parts) == 1 else {"anyOf": parts}
    if typing.get_origin(annotation) is Literal:
        return {"enum": list(typing.get_args(annotation))}
    found = TypeAdapter(annotation).json_schema()
    found.pop("title", None)
    return found


def _described(field: dataclasses.Field[Any]) -> str:
    doc = str(field.metadata.get("doc") or "").rstrip(".") + "."
    planned = field.metadata.get("planned")
    return f"{doc} Not available yet: {planned}." if planned else doc


def _summary(cls: type[Settings]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]
