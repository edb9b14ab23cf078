"""Variables have other values within a block, and afterwards those of before, whatever happens within."""

from __future__ import annotations

import os

import pytest

from ironloom.environment import environment


def test_variables_are_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL_OLD", "before")
    monkeypatch.setenv("IL_GONE", "there")
    monkeypatch.delenv("IL_NEW", raising=False)
    with pytest.raises(KeyboardInterrupt), environment({"IL_OLD": "within", "IL_GONE": None, "IL_NEW": "new"}):
        assert (os.environ["IL_OLD"], os.environ.get("IL_GONE"), os.environ["IL_NEW"]) == ("within", None, "new")
        del os.environ["IL_NEW"]  # what the block does to them is undone, too
        os.environ["IL_GONE"] = "again"
        raise KeyboardInterrupt
    assert (os.environ["IL_OLD"], os.environ["IL_GONE"], os.environ.get("IL_NEW")) == ("before", "there", None)
