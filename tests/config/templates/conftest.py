"""Templates in a folder of their own."""

import textwrap

import pytest

from ironloom.config import templates


class Folder:
    """A folder of template files; the first argument of ``load`` and ``render`` is the main one's text."""

    def __init__(self, path):
        self.path = path

    def write(self, text, name="main.yaml"):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def load(self, text, overrides=(), arguments=None):
        return templates.load(self.write(text), [self.path], arguments, overrides)

    def render(self, text, arguments=None):
        return templates.render(self.write(text), [self.path], arguments)

    def main(self, text, **given):
        """The root of a text's graph."""
        return self.load(text, **given).root["main"]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "templates")


@pytest.fixture
def shown(folder):
    """Problems and origins as text, file names without their folder."""
    return lambda thing: str(thing).replace(f"{folder.path}/", "")
