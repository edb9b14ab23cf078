"""Rules of documents that share a row: nothing is said of rows in which no two are, or which are kept apart in any case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ironloom.errors import Problem
from ironloom.settings.data import DataGroup
from ironloom.settings.model import DOCUMENTS

if TYPE_CHECKING:
    from ironloom.config.groups.across import Facts


def problems(facts: Facts) -> Iterator[Problem]:
    """Every problem of these keys. In a preset of a model they may stand for any task."""
    values = facts("data.task_type", "data.train_datasets", "data.packing")
    task = None if values is None else DataGroup(task_type=values[0], train_datasets=values[1]).task
    if values is None or task == "pretrain":
        return
    for name in DOCUMENTS:
        path, found = f"model.{name}", facts(f"model.{name}")
        if not found or not facts.found.given("model", name) or facts.found.origin(("model", name)).route in ("default", "preset"):
            continue
        if name == "eod_mask_loss":
            if found[0]:
                yield Problem(f"has no effect on {task}: where an answer ends has to be learned", path, hint="leave the key out")
        elif values[2] != "best_fit":
            hint = "leave the key out, or set data.packing: best_fit" if task == "sft" else "leave the key out"
            yield Problem("has no effect: no two documents share a row", path, hint=hint)
        elif not found[0]:
            yield Problem("conversations that share a row are kept apart", path, hint="leave the key out, or data.packing")
