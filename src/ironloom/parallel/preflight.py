"""Before training begins: every rank compares what must be alike with rank 0, and the machine that differs is named."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironloom.errors import ConfigError, Problem, RankError, ResourceError

#: Seconds in which every rank must have come.
PATIENCE = 60.0
_PERIOD = 0.02
_SHOWN = 16
_HINTS = {
    "world size": "start every machine with the same --nproc and --nnodes",
    "configuration": "start every machine on the same run.yaml",
    "data": "let the machines share the cache (IRONLOOM_CACHE), or prepare it anew on this one",
}


def versions(own: str) -> dict[str, str]:
    """The versions that must be the same everywhere; ``own`` is that of this package."""
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "ironloom": own}


def check_disk(folder: Path, needed: int) -> None:
    """Look whether there is room for what a run writes.

    Args:
        folder: Of the run; it need not exist yet.
        needed: Bytes.

    Raises:
        ResourceError: Naming this machine, if there is too little.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ResourceError(
            f"{socket.gethostname()}: {there} has {free / 2**30:.1f} GiB left, a checkpoint takes about {needed / 2**30:.1f} GiB: "
            "free some, or choose another output folder"
        )


def compare(store: Any, what: str, rank: int, world: int, mine: Mapping[str, str], patience: float = PATIENCE) -> None:
    """Compare with rank 0. Every rank calls this, and every rank gets the same outcome.

    Args:
        store: One that all ranks reach.
        what: Names this comparison; each has its own name.
        rank: Number of this process.
        world: Number of processes.
        mine: What must be alike, by name.
        patience: Seconds to wait for the others.

    Raises:
        RankError: Naming the ranks that have not come.
        ConfigError: Naming the machines that differ, and in what.
    """
    facts = {**mine, "world size": str(world)}
    told = {"host": socket.gethostname(), "facts": facts}
    twice = store.add(f"{what}/present/{rank}", 1) > 1
    if not twice:
        store.set(f"{what}/facts/{rank}", json.dumps(told))
    if twice:
        store.set(f"{what}/twice", json.dumps(f"two processes say that they are rank {rank}, one of them on {told['host']}"))
    end = time.monotonic() + patience
    if rank == 0 and not twice:
        store.set(f"{what}/outcome", json.dumps(_outcome(store, what, world, end)))
    outcome = _wait(store, f"{what}/outcome", end + 5)
    if outcome is None:
        raise RankError(f"rank {rank} on {told['host']}: rank 0 did not answer within {patience:.0f} s; is it still starting, or gone?")
    if outcome["missing"]:
        raise RankError(outcome["missing"])
    if outcome["problems"]:
        raise ConfigError([Problem(message, hint=hint) for message, hint in outcome["problems"]])


def _outcome(store: Any, what: str, world: int, end: float) -> dict[str, Any]:
    """Rank 0: gather, and judge."""
    told: dict[int, Any] = {}
    for rank in range(world):
        found = _wait(store, f"{what}/facts/{rank}", end)
        if found is not None:
            told[rank] = found
    if store.check([f"{what}/twice"]):
        return {"missing": f"{json.loads(store.get(f'{what}/twice'))}: start every machine with its own --node-rank", "problems": []}
    missing = [rank for rank in range(world) if rank not in told]
    if missing:
        names = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        who, whose = ("rank", "its machine") if len(missing) == 1 else ("ranks", "their machines")
        return {"missing": f"{who} {names} of {world} did not start; look at the output of {whose}", "problems": []}
    return {"missing": "", "problems": _differences(told)}


def _differences(told: Mapping[int, Any]) -> list[tuple[str, str]]:
    """One line for each machine and fact that differ from rank 0's."""
    first = told[0]
    found: dict[tuple[str, str, str], list[int]] = {}
    for rank, other in told.items():
        for name, value in first["facts"].items():
            theirs = other["facts"].get(name, "nothing")
            if theirs != value:
                found.setdefault((other["host"], name, theirs), []).append(rank)
    lines = []
    for (host, name, theirs), ranks in list(found.items())[:_SHOWN]:
        who = ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
        message = f"{host} ({who}): {name} is {theirs}, but {first['facts'][name]} on {first['host']} (rank 0)"
        lines.append((message, _HINTS.get(name, f"install the same {name} on every machine")))
    return lines


def _wait(store: Any, key: str, end: float) -> Any:
    """A value of the store; None if it is not there in time."""
    while not store.check([key]):
        if time.monotonic() > end:
            return None
        time.sleep(_PERIOD)
    return json.loads(store.get(key))
