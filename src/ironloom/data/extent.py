"""How far the reading of sources has come, in bytes of their files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ironloom.data import builtin, hub, ironcore, readers
from ironloom.data.corpus import files_of
from ironloom.errors import DataError


class Extent:
    """The files of sources that are read one after the other.

    Args:
        sources: See ``corpus.read_documents``; with each, how many documents are read of it, None for all.
    """

    def __init__(self, sources: Iterable[tuple[str, int | None]]):
        self._files = [_plain_files(source) if limit is None else [] for source, limit in sources]
        sizes = [size for files in self._files for _, size in files]
        self._before = [0, *itertools.accumulate(sizes)]

    def fraction(self, mark: Any) -> float | None:
        """The share that has been read when reading has come to a mark of ``corpus.read_marked`` behind the number of its source.

        From 0 to 1; None where it cannot be known: sources that are not plain files, or are read in part.
        """
        if not all(self._files) or mark is None or len(mark) != 4 or not self._before[-1]:
            return None
        entry, place = int(mark[0]), int(mark[1])
        number = sum(map(len, self._files[:entry])) + place
        begun = readers.position(self._files[entry][place][0])
        done = self._before[number + 1] if begun is None else self._before[number] + begun
        return min(1.0, done / self._before[-1])


def _plain_files(source: str) -> list[tuple[Path, int]]:
    """The files of a source with their sizes in bytes; empty if it has none that are read as they are."""
    path = Path(source).expanduser()
    if source in builtin.CORPORA or not path.exists() or hub.is_saved(path) or ironcore.is_prepared(path):
        return []
    try:
        return [(path, path.stat().st_size) for path in files_of(source)]
    except (DataError, OSError):  # it is told when it is read
        return []
