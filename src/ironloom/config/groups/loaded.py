"""Rules of a model that is loaded: it must be there, and keys of a new one have no effect. Looks at folders, reads none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ironloom.config.groups.gathered import DEFAULT
from ironloom.errors import Problem
from ironloom.settings.base import field_names
from ironloom.settings.groups import PRESET
from ironloom.settings.model import ModelConfig, is_of_loaded, not_of_loaded

if TYPE_CHECKING:
    from ironloom.config.groups.across import Facts

#: Keys of other groups that only a new decoder follows.
_OF_NEW = ("init.init_std", "init.xavier_init", "trainer.vocab_padding_unit")


def problems(facts: Facts) -> Iterator[Problem]:
    """Every problem of ``model.name_or_path``."""
    values = facts("model.name_or_path")
    if not values or values[0] is None:
        return
    yield from _place(values[0])
    defaults = ModelConfig()
    for name in field_names(ModelConfig):
        same = facts(f"model.{name}")
        # What is not the default is told by the settings themselves.
        if name != PRESET and not is_of_loaded(name) and _is_said(facts, f"model.{name}") and same and same[0] == getattr(defaults, name):
            problem = not_of_loaded(name)
            yield Problem(problem.message, f"model.{name}", hint=problem.hint)
    for path in _OF_NEW:
        if _is_said(facts, path):
            yield Problem("has no effect with model.name_or_path: that model has its own", path, hint="leave the key out")


def _is_said(facts: Facts, path: str) -> bool:
    """Whether somebody wrote a key; what stands for a default did not."""
    group, _, key = path.partition(".")
    return facts.found.given(group, key) and facts.found.origin((group, key)) != DEFAULT


def _place(name: str) -> Iterator[Problem]:
    """A path that leads nowhere, or to something else than a model. What may be a name of the hub is not looked for."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            hint = "it is the folder of a model: a run's output, or what save_pretrained wrote"
            yield Problem(f"{name!r} has no config.json", "model.name_or_path", hint=hint)
        elif not (path / "config.json").is_file():
            yield Problem(f"{name!r} holds an adapter", "model.name_or_path", hint=f"make a model of it: ironloom model merge {name}")
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        yield Problem(f"there is no folder {name!r}", "model.name_or_path", hint="name a folder, or a model of the Hugging Face hub")
