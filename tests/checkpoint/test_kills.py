"""A kill at any moment leaves a usable latest checkpoint and loses none that was acknowledged."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from checkpoint.crash_child import state, weights
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import verify
from ironloom.checkpoint.tree import load_tree
from ironloom.weights import load_weights


class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(30_000))


class Server:
    """The process that forks the savers."""

    def __init__(self, root: Path, acks: Path):
        self.root, self.acks = root, acks
        script = Path(__file__).with_name("crash_child.py")
        self.process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, **request) -> int:
        request |= {"root": str(self.root), "acks": str(self.acks)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self) -> int:
        return int(self.process.stdout.readline())

    def last_ack(self) -> int | None:
        return int(self.acks.read_text().split()[-1]) if self.acks.exists() and self.acks.stat().st_size else None

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "checkpoints", tmp_path / "acks")
    yield server
    server.close()


def check_after_kill(server: Server) -> bool:
    """Whether the kill left something behind; fails if anything acknowledged is lost or unusable."""
    warnings = []
    folder = CheckpointFolder(server.root)
    latest = folder.latest(warnings.append)
    assert warnings == [], "a kill must never leave a damaged checkpoint under its final name"
    acknowledged = server.last_ack()
    if acknowledged is not None:
        assert latest is not None, f"save {acknowledged} was acknowledged, but nothing is there"
        number = latest.info["number"]
        assert number >= acknowledged, f"save {acknowledged} was acknowledged, but the latest is {number}"
    if latest is not None:
        expected = state(latest.info["number"])
        found = load_tree(latest.path, "optimizer")
        assert found["number"] == expected["number"]
        assert torch.equal(found["moment"], expected["moment"])
        holder = Holder()
        load_weights(latest.path, holder)
        assert torch.equal(holder.weight, weights(latest.info["number"])["weight"])
    for checkpoint in folder.complete():
        assert verify(checkpoint.path, deep=True) == []
    return server.root.exists() and any(path.name.startswith(".") for path in server.root.iterdir())


def kill_at_random(server: Server, num_kills: int) -> None:
    chance = random.Random(1)
    num_leftovers = 0
    for round_number in range(num_kills):
        child = server.start(seed=round_number)
        time.sleep(chance.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        assert server.status() == signal.SIGKILL, "the saver must have been alive until it was killed"
        num_leftovers += check_after_kill(server)
    acknowledged = server.last_ack()
    print(f"{num_kills} kills, {num_leftovers} during a save, {acknowledged} saves acknowledged")
    assert acknowledged > num_kills / 4, "too few saves for the kills to mean something"
    assert num_leftovers > num_kills / 10, "too few kills hit a save"


def test_twenty_kills_at_random_moments(server):
    kill_at_random(server, 20)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_hundred_kills_at_random_moments(server):
    kill_at_random(server, 200)


def test_a_kill_before_every_single_change_of_the_file_system(server):
    """Save, replace, retain: killed before the 1st, 2nd, ... change, on what the last kill left."""
    num_killed, status = 0, signal.SIGKILL
    while status == signal.SIGKILL and num_killed < 500:
        server.start(seed=num_killed, change=num_killed + 1, num_saves=3)
        status = server.status()
        check_after_kill(server)
        num_killed += status == signal.SIGKILL
    print(f"{num_killed} changes, a kill before each")
    assert status == 0
    assert num_killed > 50
    assert [path.name for path in server.root.iterdir() if path.name.startswith(".")] == []
