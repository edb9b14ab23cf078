"""Which sources and which ranges of stores a run's data have."""

from __future__ import annotations

from typing import Any

from ironloom.data.chat.sources import RecordSource
from ironloom.data.entries import Corpus
from ironloom.data.store import TokenStore


def sources_of(data: Any) -> dict[str, Corpus | RecordSource[Any]]:
    """The sources by the names of their stores."""
    if hasattr(data, "_sources"):
        return dict(data._sources)
    found = {"training": data._train, "evaluation": data._eval, "test": data._test}
    return {name: source for name, source in found.items() if source is not None}


def parts_of(data: Any, name: str, store: TokenStore) -> dict[str, tuple[int, int]]:
    """The samples of a store that are used for ``training``, ``evaluation`` and ``test``: the first, and the one behind the last."""
    return {name.partition("/")[0]: (0, store.num_documents // len(data.types))}
