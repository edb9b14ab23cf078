"""The comparison before training: who differs, who is missing, who is there twice, and where the disk is full."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from ironloom.errors import ConfigError, RankError, ResourceError
from ironloom.parallel import preflight

SAME = {"python": "3.11.7", "torch": "2.13.0", "configuration": "abc", "data": "def"}


def outcomes(facts: Mapping[int, Mapping[str, str]], world: int, monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What ``compare`` comes to on every rank; two ranks per host."""
    store = HashStore()
    hosts = {rank: f"node{rank // 2}" for rank in range(world)}
    current: dict[int, int] = {}
    import threading

    monkeypatch.setattr(preflight.socket, "gethostname", lambda: hosts[current[threading.get_ident()]])

    def rank_is(rank: int) -> BaseException | None:
        current[threading.get_ident()] = rank
        try:
            preflight.compare(store, "test", rank, world, facts[rank], patience=1.0)
        except (ConfigError, RankError) as error:
            return error
        return None

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(rank_is, facts))


def test_ranks_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(dict.fromkeys(range(4), SAME), 4, monkeypatch) == [None] * 4


@pytest.mark.parametrize("name", SAME)
def test_the_machine_that_differs_is_named_on_every_rank(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    facts = {rank: SAME | ({name: "other"} if rank in (2, 3) else {}) for rank in range(6)}
    errors = outcomes(facts, 6, monkeypatch)
    assert time.monotonic() - begin < 2
    assert len({str(error) for error in errors}) == 1
    assert isinstance(errors[0], ConfigError) and len(errors[0].problems) == 1
    assert errors[0].problems[0].message == f"node1 (ranks 2, 3): {name} is other, but {SAME[name]} on node0 (rank 0)"
    assert errors[0].problems[0].hint


def test_a_world_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(preflight.compare, store, "test", 0, 2, SAME, 1.0)
        second = pool.submit(preflight.compare, store, "test", 1, 4, SAME, 1.0)
        for rank in (first, second):
            with pytest.raises(ConfigError, match=r"\(rank 1\): world size is 4, but 2 on"):
                rank.result()


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = outcomes({0: SAME, 2: SAME}, 4, monkeypatch)
    assert all(isinstance(error, RankError) and str(error).startswith("ranks 1, 3 of 4 did not start") for error in errors)


def test_a_silent_first_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    with pytest.raises(RankError, match="rank 0 did not answer"):
        preflight.compare(HashStore(), "test", 1, 2, SAME, patience=-5.0)


def test_two_processes_of_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        twins = [pool.submit(preflight.compare, store, "test", 1, 2, SAME, 1.0) for _ in range(2)]
        time.sleep(0.2)
        first = pool.submit(preflight.compare, store, "test", 0, 2, SAME, 1.0)
        for rank in (*twins, first):
            with pytest.raises(RankError, match="two processes say that they are rank 1"):
                rank.result()


def test_a_full_disk_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.check_disk(tmp_path / "not" / "yet", 1)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(ResourceError, match=r"has 1\.0 GiB left, a checkpoint takes about 2\.0 GiB"):
        preflight.check_disk(tmp_path, 2**31)


def test_versions_are_those_that_run() -> None:
    import torch

    assert preflight.versions("1.2") == {"python": platform.python_version(), "torch": torch.__version__, "ironloom": "1.2"}
