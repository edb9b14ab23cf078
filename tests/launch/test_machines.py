"""Several machines, played by several launchers on this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAUNCHER = """\
import sys
from pathlib import Path
from ironloom.cli import report
from ironloom.errors import IronloomError
from ironloom.parallel.launch import plan, start
nnodes, rank, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
try:
    launch = plan(1, nnodes, rank if rank >= 0 else None, f"127.0.0.1:{port}", max_restarts=2)
    sys.exit(start([sys.executable, str(folder / "worker.py")], launch, folder / "logs"))
except IronloomError as error:
    sys.exit(report(error))
"""
WORKER = """\
import os, sys, time
from pathlib import Path
here = Path(__file__).parent
with open(here / "notes", "a") as file:
    file.write(f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}: {os.getpid()}\\n")
while os.environ["WORLD_SIZE"] == "2" and not (here / "end").exists():
    time.sleep(0.1)
    others = [line.split(": ")[1] for line in (here / "notes").read_text().splitlines()]
    lost = not all(Path("/proc", other).exists() for other in others)
    if lost and not (here / "end").exists():  # in this order: at the end the others may be gone before this one looks
        sys.exit(1)
"""


@pytest.fixture
def port() -> int:
    """Where the machines of a test meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def machines(tmp_path: Path, port: int) -> Iterator[Any]:
    (tmp_path / "worker.py").write_text(WORKER)
    started = []

    def machine(nnodes: str, rank: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, nnodes, str(rank), str(port), str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield machine
    for child in started:
        child.kill()
        child.communicate()


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []


def wait_for_notes(folder: Path, count: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while len(notes(folder)) < count:
        assert time.monotonic() < end, notes(folder)
        time.sleep(0.1)


def wait_for_listener(port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    with socket.socket() as asking:
        while asking.connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.1)


def test_machines_with_numbers(machines: Any, tmp_path: Path) -> None:
    both = [machines("2", rank) for rank in (0, 1)]
    wait_for_notes(tmp_path, 2, 60)
    assert sorted(line.split(":")[0] for line in notes(tmp_path)) == ["0 of 2", "1 of 2"]
    (tmp_path / "end").touch()
    for machine in both:
        out, _ = machine.communicate(timeout=60)
        assert (machine.returncode, out) == (0, "")


@pytest.mark.slow
def test_a_machine_that_is_lost(machines: Any, port: int, tmp_path: Path) -> None:
    """Its launcher and its rank are gone at once; the other machine goes on alone."""
    first = machines("1:2", -1)
    wait_for_listener(port, 60)  # it holds the list of machines
    second = machines("1:2", -1)
    wait_for_notes(tmp_path, 2, 60)
    children = Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text().split()
    second.send_signal(signal.SIGSTOP)
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    second.kill()
    wait_for_notes(tmp_path, 3, 90)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 0, out
    assert notes(tmp_path)[-1].startswith("0 of 1:")


@pytest.mark.parametrize(("nnodes", "rank"), [("2", 0), pytest.param("1:2", -1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("listens", [False, True])
def test_a_port_that_another_program_has_is_named(nnodes: str, rank: int, listens: bool, machines: Any, port: int, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        if listens:
            taken.listen()
        machine = machines(nnodes, rank)
        out, _ = machine.communicate(timeout=100)
    place = f"127.0.0.1:{port}"
    assert (machine.returncode, out) == (
        4,
        f"error: --rdzv {place}: port {port} of this machine is in use by another program; end it, or give another port, "
        "the same on each machine\n",
    )
    assert notes(tmp_path) == []
