"""Shared pieces of the configuration tests."""

import textwrap

import pytest

TOYS = """
import dataclasses
from functools import lru_cache
from toys_base import other as renamed
from toys_base import *

LOG = []

class Thing:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        LOG.append(self)

def nothing():
    LOG.append(None)
    return None

def fail(value=0):
    raise KeyError("broken")

def data_error():
    from ironloom.errors import DataError
    raise DataError("empty corpus")

def plain(a, b=2, *, c, d=4):
    return (a, b, c, d)

def positional(a, /, b):
    return (a, b)

def anything(*args, **kwargs):
    return (args, kwargs)

@lru_cache
def cached(a): return a

@renamed
def decorated(a): return a

class Child(Base):
    def __init__(self, own, **kwargs):
        super().__init__(**kwargs)

class Closed(Base):
    def __init__(self, own, **kwargs):
        super().__init__(own, **kwargs)

class Heir(Base):
    pass

class Maker:
    @classmethod
    def make(cls, size): return size

@dataclasses.dataclass
class Parent:
    first: int
    second: int = 2

@dataclasses.dataclass
class Record(Parent):
    third: list = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=0, init=False)
"""

TOYS_BASE = """
class Base:
    def __init__(self, width, depth=1): pass

def other(function): return function
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A module ``toys`` of targets that can be imported; returns the module."""
    import importlib
    import sys

    from ironloom.config.static import modules

    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toys.py").write_text(TOYS)
    (folder / "toys_base.py").write_text(TOYS_BASE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    monkeypatch.delitem(sys.modules, "toys_base", raising=False)
    modules.find_module.cache_clear()
    importlib.invalidate_caches()
    yield importlib.import_module("toys")
    modules.find_module.cache_clear()
    for name in ("toys", "toys_base"):
        sys.modules.pop(name, None)


@pytest.fixture
def write(tmp_path):
    """Write a text to a file of the test's folder; returns the path as a string."""

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher's variables."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
