"""How far the reading of sources has come, in bytes of their files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironloom.data import builtin, hub, ironcore, readers
from ironloom.data.corpus import files_of
from ironloom.errors import DataError


class Extent:
    """The files of sources that are read one after the other.

    Args:
        sources: See ``corpus.read_documents``.
    """

    def __init__(self, sources: Sequence[str]):
        self._files = [_plain_files(source) for source in sources]
        sizes = [path.stat().st_size for files in self._files for path in files or ()]
        self._before = [0, *itertools.accumulate(sizes)]

    def fraction(self, mark: Any) -> float | None:
        """The share that has been read when reading has come to a mark of ``corpus.read_marked`` behind the number of its source.

        None where it cannot be known: sources that are not plain files.
        """
        if not all(self._files) or mark is None or not self._before[-1]:
            return None
        entry, place = int(mark[0]), int(mark[1])
        files = self._files[entry] or []
        number = sum(len(each or ()) for each in self._files[:entry]) + place
        begun = readers.position(files[place])
        done = self._before[number + 1] if begun is None else self._before[number] + begun
        return min(1.0, done / self._before[-1])


def _plain_files(source: str) -> list[Path] | None:
    path = Path(source).expanduser()
    if source in builtin.CORPORA or not path.exists() or hub.is_saved(path) or ironcore.is_prepared(path):
        return None
    try:
        return files_of(source)
    except DataError:  # it is told when it is read
        return None
