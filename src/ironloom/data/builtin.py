"""The two corpora that are on every machine with Python: its documentation and its standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


def python_docs() -> Iterator[str]:
    """The topics of Python's language reference, each one document, by name."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def python_stdlib() -> Iterator[str]:
    """The source files of the standard library, each one document, by path; no tests, no installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            try:
                yield path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:  # a few files are examples of other encodings
                continue


CORPORA: dict[str, Callable[[], Iterator[str]]] = {"python-docs": python_docs, "python-stdlib": python_stdlib}
