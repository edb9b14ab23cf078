"""Running the command line, in this process or as a user does."""

from types import SimpleNamespace

import pytest

from cli.commands import furnished
from ironloom.cli import main


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No launcher's variables, and a folder of its own."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ironloom(capsys):
    """Run a command in this process; returns its exit code and what it printed."""

    def ironloom(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=out, err=err)

    return ironloom


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder in which commands are run as processes of their own."""
    return furnished(tmp_path_factory.mktemp("a folder with spaces"))


@pytest.fixture(scope="session")
def finished(place):
    """The run that nothing disturbs; its output folder is ``out``."""
    return place.train("out")
