"""Inspecting in this process, with a cache of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.inspecting.corpora import MODEL
from ironloom.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Inspect a configuration; gives the exit code, the JSON, and what was printed."""

    def inspect(datasets: str, *words: str, length: int = 16) -> tuple[int, dict[str, Any], str]:
        config, file = tmp_path / "run.yaml", tmp_path / "report.json"
        config.write_text(f"{MODEL.replace('LENGTH', str(length))}data: {{{datasets}}}\n")
        with pytest.raises(SystemExit) as end:
            main(["data", "inspect", str(config), "--json", str(file), *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), json.loads(file.read_text()), out + err

    return inspect
