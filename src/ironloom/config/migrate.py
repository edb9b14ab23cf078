"""From a configuration in other words to one in groups: ``transformers.TrainingArguments``, and older forms of our own.

Only what clearly means the same is taken. Everything else that says something is listed with the reason.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ironloom.config import source, tagged
from ironloom.config.graph import Graph
from ironloom.errors import ConfigError, Origin, Problem
from ironloom.settings.groups import GROUPS


@dataclass
class Migrated:
    """A configuration in groups, and what of the old one is not in it.

    Attributes:
        groups: Keys and values by group.
        left_out: Key, value and reason of what was not taken.
        notes: What there is left to do.
    """

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[tuple[str, Any, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The new file: what was not taken stands in comments above the groups."""
        lines = [f"# {note}" for note in self.notes]
        if self.left_out:
            lines += ["# Not taken:", *(f"#   {key}: {_shown(value)}: {why}" for key, value, why in self.left_out)]
        ordered = {name: self.groups[name] for name in GROUPS if name in self.groups}
        body = tagged.dump(Graph(dict(ordered))).removeprefix(tagged.HEADER).lstrip("\n")
        return "".join(f"{line}\n" for line in [*lines, ""] if lines) + body


def migrate(path: str | pathlib.Path) -> Migrated:
    """Turn a file into a configuration in groups.

    Args:
        path: ``TrainingArguments`` as JSON or YAML, or a grouped configuration in an older form.

    Raises:
        ConfigError: If the file cannot be read or is neither.
    """
    from ironloom.config import transformers_words

    node = source.compose(source.read_text(path), str(path))
    reader = source.Reader(str(path))
    values = reader.plain(node, ()) if isinstance(node, yaml.MappingNode) else None
    if reader.problems:
        raise ConfigError(reader.problems)
    if isinstance(values, dict) and any(key in transformers_words.KNOWN for key in values):
        return transformers_words.training_arguments(values)
    if isinstance(values, dict) and any(key in GROUPS for key in values):
        return older_groups(values)
    hint = "it takes the JSON of transformers.TrainingArguments, or a configuration in groups"
    raise ConfigError(Problem("is in no words that can be migrated", origin=Origin(str(path), 1, 1), hint=hint))


def older_groups(given: Mapping[str, Any]) -> Migrated:
    """The groups with older forms of ours in their present form: lists of datasets and their keys."""
    from ironloom.config.groups.datafile import OLD_LISTS, OTHER_NAMES, present_entry
    from ironloom.settings.data import LISTS

    made = Migrated()
    for group, values in given.items():
        if group not in GROUPS:
            made.left_out.append((group, values, "there is no such group"))
        elif isinstance(values, Mapping):
            made.groups[group] = dict(values)
        elif values is not None:
            made.groups[group] = values
    data = made.groups.get("data")
    if isinstance(data, dict):
        renamed = {**OLD_LISTS, "datasets": OTHER_NAMES["datasets"]}
        data = {renamed.get(key, key) if isinstance(value, list) else key: value for key, value in data.items()}
        for key in LISTS:
            if isinstance(data.get(key), list):
                data[key] = [present_entry(entry) or entry for entry in data[key]]
        changed = data != made.groups["data"]
        made.groups["data"] = data
        made.notes += ["Older forms were replaced; comments of the old file are not kept."] if changed else []
    return made


def _shown(value: Any) -> str:
    from ironloom.config.views.tree import headline, is_flat

    return headline(value) if is_flat(value) else repr(value)
