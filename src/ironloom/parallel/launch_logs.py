"""Where the ranks' output goes: rank 0's to the terminal, that of the others to ``LOGS/rank-N.log``. Also dying with the launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

#: Environment variable by which the launcher tells a worker the folder of the logs.
LOGS = "IRONLOOM_LOGS"
_PR_SET_PDEATHSIG = 1


def log_file(folder: Path, rank: int) -> Path:
    """The log of a rank."""
    return folder / f"rank-{rank}.log"


def settle_in(environment: Mapping[str, str]) -> None:
    """In a worker of our launcher: write to the log of this rank, and stop in order when the launcher is gone."""
    if LOGS not in environment:
        return
    # A launcher that is killed sends no signal: the system does.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    rank = int(environment["RANK"])
    if rank == 0:
        return
    file = os.open(log_file(Path(environment[LOGS]), rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def tail(folder: Path, rank: int, lines: int = 12) -> list[str]:
    """The last lines of a rank's log."""
    try:
        with open(log_file(folder, rank), "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
