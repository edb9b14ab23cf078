"""Faults in ranks that really train, with whole, sharded and staged models: the report names the culprit, not those that wait for it."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest

from ironloom.errors import RankError
from ironloom.parallel.launch import plan, start

RANK = Path(__file__).with_name("training_rank.py")
KINDS = ["exception", "loader", "stop", "kill", "order", "skip"]
PHASE = {"exception": "data", "loader": "data", "stop": "forward", "kill": "forward", "order": "forward"}
LIMIT = 5.0


@pytest.fixture(autouse=True)
def ranks_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(RANK.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]))


def assert_named(kind: str, mode: str, nproc: int, culprit: int, at: int, folder: Path) -> None:
    with pytest.raises(RankError) as caught:
        start([sys.executable, str(RANK), kind, str(culprit), str(at), str(LIMIT), mode, str(folder)], plan(nproc), folder / "logs")
    report = "\n".join([str(caught.value), *caught.value.__notes__])
    assert (folder / "fault").exists(), report
    seconds = time.time() - float((folder / "fault").read_text())
    first, second, *_ = lines = report.splitlines()
    assert caught.value.exit_code == (3 if kind == "exception" else 5)
    assert len(lines) <= 25 and re.match(rf"rank {culprit} \(\S+, process \d+\) ", first), report
    if kind == "skip":
        assert f"left out a part of step {at}" in first or f"from step {at - 1} to step {at + 1}" in first, report
        assert "loop.py:" in second, report
    else:
        assert f"in step {at}, phase {PHASE[kind]}" in first, report
        faults = [number for number, line in enumerate(RANK.read_text().splitlines(), 1) if re.search(rf"# fault: .*\b{kind}\b", line)]
        # A process that is killed or stopped tells the line at which its phase began.
        assert any(f"{RANK}:{number} " in second for number in faults) or (kind in ("kill", "stop") and "loop.py:" in second), report
    assert seconds < LIMIT + 3, f"{seconds:.1f} s\n{report}"


@pytest.mark.parametrize(("kind", "mode"), [("order", "data"), pytest.param("loader", "pipeline", marks=pytest.mark.slow)])
def test_the_culprit_of_a_training_is_named(kind: str, mode: str, tmp_path: Path) -> None:
    assert_named(kind, mode, 2, 1, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mode", "nproc", "culprit"), [("data", 3, 0), ("fsdp", 2, 1), ("fsdp", 4, 2), ("pipeline", 2, 0), ("pipeline", 2, 1)]
)
def test_any_fault_under_any_engine(kind: str, mode: str, nproc: int, culprit: int, tmp_path: Path) -> None:
    assert_named(kind, mode, nproc, culprit, 7, tmp_path)
