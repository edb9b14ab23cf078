"""The keys that data may have in a file of its own: which they are, and what they mean for the other groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ironloom.config import scalars
from ironloom.config.graph import Path
from ironloom.config.groups.gathered import DATA_FILE, Gathered, Layer
from ironloom.config.overrides import Override
from ironloom.errors import Origin, Problem
from ironloom.settings.base import field_names
from ironloom.settings.data import LISTS, DataFile, DatasetEntry

OTHER_NAMES = {"datasets": "train_datasets", "max_seq_len": "seq_length"}
OLD_LISTS = {"train": "train_datasets", "eval": "eval_datasets", "test": "test_datasets"}
OLD_KEYS = {"column": "text_column", "path": "dataset_path"}


def named(layers: Sequence[Layer], overrides: Sequence[Override]) -> tuple[str, Origin | None] | None:
    """The file that ``data.config_path`` names in the end, and where."""
    name, where = None, None
    for layer in layers:
        if "config_path" in layer.values:
            name, where = layer.values["config_path"], layer.origins.get(("config_path",))
    for override in overrides:
        if override.path == ("data", "config_path"):
            name, where = override.value, override.reader.values.get(())
    return (name, where) if isinstance(name, str) else None


def split(found: Gathered, layer: Layer) -> None:
    """Put the keys of a data file that the group data does not have where they belong."""
    for key, value in list(layer.values.items()):
        if key in OLD_LISTS and isinstance(value, list):
            hint = f"write {OLD_LISTS[key]}: {_spelled([present_entry(entry) or entry for entry in value])}"
            found.problems.append(Problem("is the older form of a list of datasets", f"data.{key}", layer.keys.get((key,)), hint))
            del layer.values[key]
    for old, new in OTHER_NAMES.items():
        if old in layer.values and new in layer.values:
            message = f"is {new} under another name, which is given too"
            found.problems.append(Problem(message, f"data.{old}", layer.keys.get((old,)), "keep one of them"))
            del layer.values[old]
        elif old in layer.values:
            layer.rename(old, new)
    own = [key for key in layer.values if key in field_names(DataFile)]
    part = Layer({key: layer.values.pop(key) for key in own}, layer.origins, layer.keys, layer.secrets)
    found.merge(DATA_FILE, part)


def share(found: Gathered) -> None:
    """Give the model the tokenizer of the data file where it names none itself; note entries in an older form."""
    for key in ("tokenizer_type", "vocab_name_or_path"):
        if found.given(DATA_FILE, key) and not found.given("model", key):
            found.values.setdefault("model", {})[key] = found.values[DATA_FILE][key]
            for table in found.tables():
                if (DATA_FILE, key) in table:
                    table["model", key] = table[DATA_FILE, key]
    for key in LISTS:
        entries = found.values.get("data", {}).get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            new = present_entry(entry)
            if new is not None:
                place: Path = ("data", key, index)
                hint = f"write {_spelled(new)}"
                found.problems.append(Problem("is the older form of a dataset", f"data.{key}.{index}", found.origin(place), hint))


def present_entry(entry: Any) -> dict[str, Any] | None:
    """The new form of an entry ``NAME: [column: text, ratio: 1.0]``; None if it is no such entry."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return None
    ((name, options),) = entry.items()
    if not isinstance(name, str) or name in field_names(DatasetEntry) or not isinstance(options, list | Mapping | None):
        return None
    new: dict[str, Any] = {"dataset_path": name}
    for part in options if isinstance(options, list) else [options or {}]:
        for key, value in part.items() if isinstance(part, Mapping) else ():
            new[OLD_KEYS.get(str(key), str(key))] = value
    return new


def _spelled(value: Any) -> str:
    """Plain data as one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_spelled(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    text = scalars.write(value)[1]
    return text if re.fullmatch(r"[\w./\-]+", text) else repr(text)
