"""SIGKILL to one process of two, or to both, at any moment around saves: the latest checkpoint is usable, nobody hangs."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from ironloom.checkpoint.background import BackgroundSaves
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import verify
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.checkpoint.shared_tree import tree_parts
from ironloom.checkpoint.tree import load_tree
from ironloom.weights.parts import Part
from ironloom.weights.peers import Peers, new_peers
from parallel import topologies
from spawned import run

NUM_VALUES = 30_000


def parts(number: int, peers: Peers, hold: bool) -> Iterator[Part]:
    """What the save with this number holds: a tensor in two halves, and one that each process has alone."""
    mesh = init_device_mesh("cpu", (2,))
    halves = distribute_tensor(torch.full((NUM_VALUES,), float(number)), mesh, [Shard(0)], src_data_rank=None)
    state = {"all": halves, f"rank {peers.rank}": torch.full((NUM_VALUES,), float(number))}
    yield from tree_parts({"number": number, "state": state}, "state", peers, split="state", hold=hold)


def kill_me_after(seconds: float) -> None:
    parent = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        os.kill(parent, signal.SIGKILL)
        os._exit(0)


def save_forever(root: Path, acks: Path, victims: tuple[int, ...], delay: float, seed: int, background: bool) -> None:
    peers, own = topologies.start(), new_peers("saving in the background")
    torch.distributed.barrier()  # who is killed while processes meet is the launcher's business
    if peers.rank in victims:
        kill_me_after(delay)
    folder, chance = CheckpointFolder(root), random.Random(seed)
    shared = SharedFolder(folder, peers)
    saves = BackgroundSaves(shared, own)
    peers.first(folder.clean)
    last = peers.first(lambda: folder.latest(print))
    step = last.step if last else 0
    for number in itertools.count(last.info["number"] + 1 if last else 0):
        step += chance.choice([0, 1, 1])  # a third of all saves replace the checkpoint of their step
        if background:
            before = saves.start(step, lambda number=number: parts(number, peers, True), {"number": number})
            if before is not None:
                if before.error is not None:
                    raise before.error
                acknowledge(acks, number - 1, peers)
        else:
            shared.save(step, lambda number=number: parts(number, peers, False), {"number": number})
            acknowledge(acks, number, peers)
            keep = chance.choice([1, 2])
            peers.first(lambda keep=keep: folder.retain(keep))


def acknowledge(acks: Path, number: int, peers: Peers) -> None:
    with open(f"{acks}-{peers.rank}", "a") as file:
        file.write(f"{number}\n")


def check(root: Path, acks: Path) -> int:
    """The number of the latest checkpoint; fails if an acknowledged one is lost, or it cannot be used."""
    folder = CheckpointFolder(root)
    latest = folder.latest(pytest.fail)
    lines = [line for rank in range(2) if Path(f"{acks}-{rank}").exists() for line in Path(f"{acks}-{rank}").read_text().split("\n")]
    acknowledged = max((int(line) for line in lines if line), default=-1)
    if latest is None:
        assert acknowledged == -1
        return -1
    number: int = latest.info["number"]
    assert number >= acknowledged, f"save {acknowledged} was acknowledged, but the latest is {number}"
    tree = load_tree(latest.path, "state")
    assert tree["number"] == number
    assert tree["state"].keys() == {"all", "rank 0", "rank 1"}
    assert all(torch.equal(value, torch.full((NUM_VALUES,), float(number))) for value in tree["state"].values())
    for checkpoint in folder.complete():
        assert verify(checkpoint.path, deep=True) == []
    return number


def kill_at_random(tmp_path: Path, num_kills: int) -> None:
    root, acks, chance = tmp_path / "checkpoints", tmp_path / "acks", random.Random(1)
    num_hits = 0
    for seed in range(num_kills):
        victims = [(0,), (1,), (0, 1)][seed % 3]
        with pytest.raises(AssertionError) as ended:
            run(save_forever, 2, root, acks, victims, chance.uniform(0.0, 0.4), seed, seed % 2 == 1, timeout=20)
        story = str(ended.value)
        assert "died without a word, exit code -9" in story
        assert "is not done" not in story, f"who was not killed must end, and say why:\n{story}"
        if len(victims) == 1:
            assert "RankError" in story, story
            assert f"rank {1 - victims[0]} lost the connection" in story
        check(root, acks)
        num_hits += root.exists() and any(path.name.startswith(".") for path in root.iterdir())
    number = check(root, acks)
    print(f"{num_kills} kills, {num_hits} during a save, {number + 1} saves")
    assert number > num_kills / 10, "too few saves for the kills to mean something"
    assert num_hits > num_kills / 10, "too few kills hit a save"


def test_twenty_kills_of_one_process_or_both(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 20)


@pytest.mark.slow
def test_a_hundred_kills_of_one_process_or_both(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 100)
