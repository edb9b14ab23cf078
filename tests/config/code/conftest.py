"""Writing configurations in Python."""

import textwrap

import pytest

from ironloom.config import code
from ironloom.errors import ConfigError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher, and no devices that can be counted."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def write(tmp_path):
    """Write a file of configuration; returns its path as a string. What every file imports is put into its first line."""

    def write(text, name="config.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from functools import partial; from ironloom.configs import *\n" + textwrap.dedent(text), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def problems():
    """The problems of a configuration, as text."""

    def problems(path, *overrides):
        with pytest.raises(ConfigError) as caught:
            code.load(path, overrides)
        return [str(problem) for problem in caught.value.problems]

    return problems
