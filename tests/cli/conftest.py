"""Running the command line in this process."""

from types import SimpleNamespace

import pytest

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
