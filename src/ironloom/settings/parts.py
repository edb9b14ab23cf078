"""What the entries of a list of datasets mean: which are read as one, what each part is called, what names a file. Reads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ironloom.errors import Problem

KINDS = (".txt", ".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = (".gz", ".zst")
_SUFFIXES = re.compile(rf"({'|'.join(map(re.escape, (*KINDS, *COMPRESSED)))})+$", re.IGNORECASE)


def parts_of(key: str, datasets: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """The datasets of a list that are read as one, each with its label, which is empty where there is one part only.

    Training data without any ratio is one part, read one after the other; with ratios each is its own. Of several sets to
    evaluate or to test on, each is its own.

    Args:
        key: Of ``LISTS``.
        datasets: Entries that have no problems.
    """
    is_one = len(datasets) == 1
    if key == "train_datasets":
        is_one |= not any(isinstance(entry, Mapping) and entry.get("ratio") is not None for entry in datasets)
    return [("", list(datasets))] if is_one else [(label_of(entry), [entry]) for entry in datasets]


def ratios_of(datasets: Sequence[Any]) -> dict[str, float]:
    """How much of each dataset is wanted, by label; 1.0 where none is said."""
    ratios = {label_of(entry): entry.get("ratio") if isinstance(entry, Mapping) else None for entry in datasets}
    return {label: 1.0 if ratio is None else float(ratio) for label, ratio in ratios.items()}


def ratio_problems(lists: Mapping[str, Any]) -> Iterator[Problem]:
    """Ratios of what is not trained on; lists by key, of entries that have no problems."""
    for key, datasets in lists.items():
        for index, entry in enumerate(datasets if isinstance(datasets, list | tuple) and key != "train_datasets" else ()):
            if isinstance(entry, Mapping) and entry.get("ratio") is not None:
                yield Problem("has no effect: each set is evaluated by itself", f"{key}.{index}.ratio", hint="leave the key out")


def label_of(entry: Any) -> str:
    """What a dataset is called: its name, else the last part of where it lies; letters, digits, ``_``, ``.`` and ``-``."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if name is None:
        path = PurePath(source_of(entry)).name
        name = _SUFFIXES.sub("", path) or path
    return re.sub(r"[^\w.-]", "_", str(name))


def source_of(entry: Any) -> str:
    """Where a dataset lies; empty where that is not said."""
    return entry if isinstance(entry, str) else str(entry.get("dataset_path") or entry.get("source") or "")


def looks_local(source: str) -> bool:
    """Whether a name can only mean a file or a folder: a dataset on the hub is ``name`` or ``owner/name``."""
    return (
        source.startswith((".", "/", "~", "\\"))
        or source.endswith("/")
        or source.count("/") > 1
        or "\\" in source
        or _SUFFIXES.search(source) is not None
    )


def label_problems(lists: Mapping[str, Any]) -> Iterator[Problem]:
    """Parts of one list that have the same label; lists by key, of entries that have no problems."""
    for key, datasets in lists.items():
        if not isinstance(datasets, list | tuple):
            continue
        parts = parts_of(key, datasets)
        labels = [label for label, _ in parts]
        for index, label in enumerate(labels):
            if len(parts) > 1 and label in labels[:index]:
                message = f"is called {label!r} like entry {labels.index(label)}, and each has metrics of its own"
                yield Problem(message, f"{key}.{index}", hint="give it a name")
