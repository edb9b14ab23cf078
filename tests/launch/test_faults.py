"""Faults injected into one of two ranks: the report names that rank, its phase, step and line, soon and briefly, and not the victim's."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironloom.errors import RankError
from ironloom.parallel.launch import plan, start

RANK = Path(__file__).with_name("rank.py")
KINDS = ["exception", "loader", "stop", "kill", "order", "skip"]
PHASE = {"exception": "data", "loader": "data", "stop": "forward", "kill": "forward", "order": "forward", "skip": "data"}
LIMIT = 3.0


def lines_of(kind: str) -> list[int]:
    return [number for number, line in enumerate(RANK.read_text().splitlines(), 1) if re.search(rf"# fault: .*\b{kind}\b", line)]


def fails(kind: str, culprit: int, at: int, folder: Path, limit: float = LIMIT) -> tuple[str, float]:
    """Run with a fault; the report, and seconds from the fault to it."""
    command = [sys.executable, str(RANK), kind, str(culprit), str(at), str(limit), "2000"]
    with pytest.raises(RankError) as caught:
        start(command, plan(2), folder)
    assert caught.value.exit_code == 5
    seconds = time.time() - float((folder / "fault").read_text())
    return "\n".join([str(caught.value), *caught.value.__notes__]), seconds


def assert_names(kind: str, culprit: int, at: int, report: str) -> None:
    lines = report.splitlines()
    assert len(lines) <= 25, report
    assert re.match(rf"rank {culprit} \(\S+, process \d+\) ", lines[0]), report
    assert re.search(rf"step {at}\b", lines[0]), report
    assert re.search(rf"phases? {PHASE[kind]}\b", lines[0]) or f"phases {PHASE[kind]}" in lines[0], report
    assert any(re.search(rf"at {re.escape(str(RANK))}:{number} ", lines[1]) for number in lines_of(kind)), report


@pytest.mark.parametrize("kind", KINDS)
def test_the_culprit_is_named(kind: str, tmp_path: Path) -> None:
    report, seconds = fails(kind, 1, 40, tmp_path)
    assert_names(kind, 1, 40, report)
    assert seconds < LIMIT + 3


def test_the_first_rank_can_be_the_culprit(tmp_path: Path) -> None:
    report, _ = fails("order", 0, 40, tmp_path)
    assert_names("order", 0, 40, report)


def test_a_slow_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    assert start([sys.executable, str(RANK), "slow", "1", "5", "2", "10"], plan(2), tmp_path) == 0
    assert "rank 1 is done" in (tmp_path / "rank-1.log").read_text()


@pytest.mark.parametrize("kind", ["loader", "order"])
def test_under_torchrun_the_ranks_look_after_each_other(kind: str, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(RANK), kind, "0", "40", str(LIMIT), "2000", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode != 0
    report = result.stderr[result.stderr.index("error: rank") :].removeprefix("error: ")
    assert report.startswith("rank 0 (") and result.stderr.count("error: rank") == 1
    assert "in step 40, phase " + PHASE[kind] in report.splitlines()[0]
    assert any(f"{RANK}:{number} " in report.splitlines()[1] for number in lines_of(kind))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_faults(tmp_path: Path) -> None:
    """At least 95 are named right, in time, whichever rank and step."""
    draw, wrong = random.Random(4), []
    for number in range(100):
        kind, culprit, at = KINDS[number % len(KINDS)], draw.randrange(2), draw.randrange(0, 120)
        report, seconds = fails(kind, culprit, at, tmp_path / str(number))
        try:
            assert_names(kind, culprit, at, report)
            assert seconds < LIMIT + 3, f"{seconds:.1f} s"
        except AssertionError as error:
            wrong.append(f"{number}: {kind} on rank {culprit} at step {at} after {seconds:.1f} s\n{report}\n{error}")
    assert len(wrong) <= 5, "\n\n".join(wrong)
    print("\n\n".join(wrong))
