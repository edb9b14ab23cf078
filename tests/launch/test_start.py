"""Starting processes: their places, output, signals, ends and new starts. The processes are small scripts without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ironloom.device import num_cores
from ironloom.errors import RankError
from ironloom.parallel import launch_logs
from ironloom.parallel.launch import plan, start

# Run by its path: importing the package would import torch.
BEGIN = f"""\
import os, runpy, signal, sys, time
from pathlib import Path
runpy.run_path({launch_logs.__file__!r})["settle_in"](os.environ)
rank, here = os.environ["RANK"], Path(sys.argv[1])
def note(text):
    with open(here / ("notes-" + rank), "a") as file:
        file.write(str(text) + "\\n")
"""
LAUNCHER = """\
import sys
from pathlib import Path
from ironloom.cli import report
from ironloom.errors import IronloomError
from ironloom.parallel.launch import plan, start
try:
    sys.exit(start([sys.executable, sys.argv[1], sys.argv[2]], plan(2), Path(sys.argv[2], "logs")))
except IronloomError as error:
    sys.exit(report(error))
"""
WAITS = """\
note("ready")
def stop(signum, frame):
    note(f"got {signum}")
    time.sleep(1)
    note("saved")
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
time.sleep(60)
"""
UNTIL_STOP = """\
note("ready")
while not (here / "stop").exists():
    time.sleep(0.1)
time.sleep(2 * int(rank))
sys.exit(143)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], list[str]]:
    def script(body: str) -> list[str]:
        file = tmp_path / "worker.py"
        file.write_text(BEGIN + textwrap.dedent(body))
        return [sys.executable, str(file), str(tmp_path)]

    return script


@pytest.fixture
def launcher(tmp_path: Path, script: Callable[[str], list[str]]) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A launcher in a process of its own, as from a shell."""
    started = []

    def launcher(body: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, *script(body)[1:]]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        started.append(child)
        return child

    yield launcher
    for child in started:
        child.kill()
        child.communicate()


def notes(folder: Path, rank: int) -> list[str]:
    file = folder / f"notes-{rank}"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_every_process_learns_its_place_as_from_torchrun(script: Callable[[str], list[str]], tmp_path: Path) -> None:
    names = "['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR']"
    assert start(script(f"note(' '.join(os.environ[name] for name in {names}))"), plan(3), tmp_path / "logs") == 0
    assert [notes(tmp_path, rank) for rank in range(3)] == [[f"{rank} {rank} 3 3 127.0.0.1"] for rank in range(3)]


def test_processes_of_one_machine_share_its_cores(
    script: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads than cores wait for each other ten times as long as they compute."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert start(script("note(os.environ['OMP_NUM_THREADS'])"), plan(2), tmp_path / "logs") == 0
    share = str(max(1, num_cores() // 2))
    assert [notes(tmp_path, rank) for rank in range(2)] == [[share], [share]]


def test_rank_0_speaks_on_the_terminal_and_the_others_into_files(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    child = launcher("print('out of', rank, flush=True); print('err of', rank, file=sys.stderr)")
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert sorted(out.splitlines()) == ["err of 0", "out of 0"]
    assert sorted((tmp_path / "logs/rank-1.log").read_text().splitlines()) == ["err of 1", "out of 1"]
    assert not (tmp_path / "logs/rank-0.log").exists()


def test_two_runs_at_once(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    children = [launcher("note(os.environ['MASTER_PORT'])\ntime.sleep(2)") for _ in range(2)]
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert (child.returncode, out) == (0, "")
    assert len(set(notes(tmp_path, 0))) == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_rank_once_and_is_waited_for(
    signum: int, launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    child = launcher(WAITS)
    wait_for(lambda: all(notes(tmp_path, rank) for rank in (0, 1)))
    os.killpg(child.pid, signum)  # as Ctrl-C: to everything in the foreground
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (128 + signum, "")
    assert [notes(tmp_path, rank) for rank in (0, 1)] == [["ready", f"got {int(signum)}", "saved"]] * 2


def test_a_signal_to_one_rank_that_ends_them_all_in_order(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    child = launcher(UNTIL_STOP)
    wait_for(lambda: all(notes(tmp_path, rank) for rank in (0, 1)))
    (tmp_path / "stop").touch()
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (143, "")


def test_when_the_launcher_is_killed_the_ranks_stop_in_order(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    child = launcher(WAITS)
    wait_for(lambda: all(notes(tmp_path, rank) for rank in (0, 1)))
    child.kill()
    wait_for(lambda: all("saved" in notes(tmp_path, rank) for rank in (0, 1)))


def processes_of(folder: Path) -> list[int]:
    """Processes that were started with the folder in their command line, but this one's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            pass
    return found


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_failure_leaves_no_process_behind(end: str, script: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Neither the other ranks nor what ranks have started, such as workers that read data."""
    body = f"""\
    import subprocess
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", str(here)])
    while not all((here / f"up-{{other}}").exists() for other in (0, 1)):
        (here / f"up-{{rank}}").touch()
        time.sleep(0.05)
    if rank == "1":
        {end}
    time.sleep(100)
    """
    with pytest.raises(RankError, match="rank 1"):
        start(script(body), plan(2), tmp_path / "logs")
    wait_for(lambda: not processes_of(tmp_path), 3)


def test_a_closed_terminal_under_nohup_is_no_reason_to_stop(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, for the processes that are started
    try:
        child = launcher("note('ready')\ntime.sleep(2)\nnote('done')")
    finally:
        signal.signal(signal.SIGHUP, ignored)
    wait_for(lambda: all(notes(tmp_path, rank) for rank in (0, 1)))
    child.send_signal(signal.SIGHUP)
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "")
    assert [notes(tmp_path, rank) for rank in (0, 1)] == [["ready", "done"]] * 2


def test_a_closed_terminal_stops_the_ranks_in_order(launcher: Callable[[str], subprocess.Popen[str]], tmp_path: Path) -> None:
    child = launcher(WAITS)
    wait_for(lambda: all(notes(tmp_path, rank) for rank in (0, 1)))
    child.send_signal(signal.SIGHUP)
    assert child.wait(30) == -signal.SIGHUP
    wait_for(lambda: all("saved" in notes(tmp_path, rank) for rank in (0, 1)))
    wait_for(lambda: not processes_of(tmp_path))


def test_after_a_failure_all_ranks_start_anew(script: Callable[[str], list[str]], tmp_path: Path) -> None:
    body = """\
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    note(attempt)
    if attempt == "0" and rank == "1":
        sys.exit(1)
    time.sleep(1)
    """
    assert start(script(body), plan(2, max_restarts=2), tmp_path / "logs") == 0
    assert [notes(tmp_path, rank) for rank in (0, 1)] == [["0", "1"]] * 2


@pytest.mark.parametrize(("code", "attempts"), [(1, 2), (2, 1), (3, 1), (4, 2)])
def test_a_mistake_is_not_repeated(code: int, attempts: int, script: Callable[[str], list[str]], tmp_path: Path) -> None:
    body = f"note('here')\nprint('the reason')\nsys.exit({code}) if rank == '1' else time.sleep(60)"
    with pytest.raises(RankError, match=f"rank 1 ended with exit code {code} before training began") as caught:
        start(script(body), plan(2, max_restarts=1), tmp_path / "logs")
    assert caught.value.exit_code == (code if code > 1 else 5)
    assert "the reason" in caught.value.__notes__
    assert len(notes(tmp_path, 1)) == attempts
