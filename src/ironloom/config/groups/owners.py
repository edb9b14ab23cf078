"""Where a key would be right that is wrong where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.config.groups.gathered import DATA_FILE, Gathered
from ironloom.config.validate import is_unknown_key
from ironloom.errors import Origin, Problem
from ironloom.settings.base import field_names, nearest
from ironloom.settings.groups import GROUPS, PRESET, DataFile, DatasetEntry
from ironloom.settings.lora import Lora
from ironloom.settings.model import PositionalEmbedding

# What has keys, by the words that name it in a message; groups are named by themselves.
_PLACES: Mapping[str, type] = {
    **GROUPS,
    "model.positional_embedding": PositionalEmbedding,
    "model.lora": Lora,
    "the file of data.config_path": DataFile,
    "an entry of data.train_datasets": DatasetEntry,
}


def unknown_group(name: Any, origin: Origin | None, path: str = "") -> Problem:
    """The problem of a name that is no group, with the group that was meant."""
    path = path or str(name)
    owners = [place for place in _owners(name) if place in GROUPS]
    if owners:
        return Problem(f"{name} belongs to {' and '.join(owners)}", path, origin, f"write it as {owners[0]}.{name}")
    near, renamed = nearest(str(name), GROUPS), _name_here(name)
    if renamed is not None:
        return Problem(f"there is no group {str(name)!r}", path, origin, f"here it is called {renamed}")
    if near is None:
        for group, schema in GROUPS.items():
            key = nearest(str(name), field_names(schema))
            if key:
                return Problem(f"there is no group {str(name)!r}", path, origin, f"did you mean {group}.{key}?")
    hint = f"did you mean {near!r}?" if near else "groups: " + ", ".join(GROUPS)
    return Problem(f"there is no group {str(name)!r}", path, origin, hint)


def with_owner(problem: Problem, found: Gathered) -> Problem:
    """A problem of a group; if it is an unknown key that is meant for another place, with that place."""
    group, _, key = problem.path.partition(".")
    if not is_unknown_key(problem):
        return problem
    if problem.path in found.added:
        problem = dataclasses.replace(problem, message=f"{problem.message}; + adds none here, the keys are fixed")
    if "." in key:
        return problem
    other = next((place for place in _owners(key) if place != group), None)
    if other is not None:
        hint = f"write it as {other}.{key}" if other in GROUPS or ("." in other and " " not in other) else f"write it in {other}"
        return dataclasses.replace(problem, message=f"{key} belongs to {other}", hint=hint)
    name = _name_here(key)
    if name is not None:
        return dataclasses.replace(problem, hint=f"here it is called {name}")
    own = [*field_names(GROUPS[group]), PRESET, *(field_names(DataFile) if group == "data" and DATA_FILE in found.values else ())]
    near = nearest(key, own, found.values.get(group, ()))
    if near is not None:
        return dataclasses.replace(problem, hint=f"did you mean {near!r}?")
    for place, schema in _PLACES.items():
        near = nearest(key, field_names(schema))
        if near:
            return dataclasses.replace(problem, hint=f"did you mean {near!r} of {place}?")
    return problem


def _owners(key: Any) -> Iterator[str]:
    """The places that have a key of this name."""
    for place, schema in _PLACES.items():
        if key in field_names(schema):
            yield place


def _name_here(key: Any) -> str | None:
    """The key of a group that an argument of ``transformers`` is here."""
    from ironloom.config.transformers_words import INTERVALS, RENAMED

    return {"max_steps": "operation.train_steps", **INTERVALS, **RENAMED}.get(key)
