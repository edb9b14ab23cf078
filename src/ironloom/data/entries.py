"""Entries of a list of datasets: what a configuration names, and the texts behind it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.data.corpus import fingerprint, read_marked
from ironloom.data.extent import Extent
from ironloom.errors import ConfigError, DataError, Problem
from ironloom.settings.base import mapping_problems
from ironloom.settings.groups import DatasetEntry

Datasets = Sequence[str | Mapping[str, Any]]
"""Each a source (see ``corpus.read_documents``) or a mapping with the keys of ``DatasetEntry``."""


@dataclass(frozen=True)
class Corpus:
    """Datasets read one after the other.

    Attributes:
        sources: For each the arguments of ``read_documents``.
        names: For each the name that a message about it shows, or None.
    """

    sources: tuple[dict[str, Any], ...]
    names: tuple[str | None, ...]

    @classmethod
    def of(cls, datasets: Datasets) -> Corpus:
        """From entries that :func:`entry_problems` finds right."""
        names = tuple(None if isinstance(entry, str) else entry.get("name") for entry in datasets)
        return cls(tuple(_arguments(entry) for entry in datasets), names)

    def texts(self) -> Iterator[str]:
        """The texts, see ``corpus.read_documents``."""
        for document, _ in self.read(None):
            if not isinstance(document, str):
                raise DataError("token ids that another program has prepared cannot train a tokenizer: name the one that made them")
            yield document

    def read(self, mark: Any) -> Iterator[tuple[Any, Any]]:
        """The texts behind a mark, each with the mark of what follows it, see ``preparation.Source``."""
        start, *inner = mark or (0,)
        for number in range(start, len(self.sources)):
            try:
                for document, place in read_marked(**self.sources[number], mark=inner or None):
                    yield document, (number, *place)
            except DataError as error:
                name = self.names[number]
                if name is None:
                    raise
                raise DataError(f"{name}: {error}") from error
            inner = []

    @functools.cached_property
    def _extent(self) -> Extent:
        return Extent((arguments["source"], arguments["max_samples"]) for arguments in self.sources)

    def fraction(self, mark: Any) -> float | None:
        """See ``preparation.Source``."""
        return self._extent.fraction(mark)

    def key(self) -> str:
        """What identifies the texts."""
        return ",".join(fingerprint(**arguments) for arguments in self.sources)


def _arguments(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(entry, str):
        entry = {"source": entry}
    settings = DatasetEntry.from_mapping(entry)
    return {
        "source": settings.dataset_path or settings.source,
        "text_column": settings.text_column,
        "split": settings.split,
        "subset": settings.subset,
        "max_samples": settings.max_samples,
    }


def entry_problems(path: str, datasets: Any) -> Iterator[Problem]:
    """What is wrong with a list of entries.

    Args:
        path: The key they stand under.
        datasets: What was given; None is right.
    """
    if datasets is None:
        return
    if isinstance(datasets, str | Mapping) or not isinstance(datasets, Sequence):
        yield Problem(f"expected a list of datasets, found {datasets!r}", path=path)
        return
    for number, entry in enumerate(datasets):
        place = f"{path}.{number}"
        if isinstance(entry, str):
            if not entry:
                yield Problem("expected the name of a dataset, found an empty text", path=place)
        elif isinstance(entry, Mapping):
            problems = mapping_problems(DatasetEntry, entry, prefix=f"{place}.")
            yield from problems
            if not problems:
                yield from _cross_problems(place, entry)
        else:
            yield Problem(f"expected a name or a mapping, found {entry!r}", path=place)


def _cross_problems(place: str, entry: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        DatasetEntry.from_mapping(entry)
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(problem.message, f"{place}.{problem.path}", problem.origin, problem.hint)
