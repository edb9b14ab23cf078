"""A process that forks savers, to be killed by ``test_kills.py``.

Reads one JSON request per line, forks a child that saves in a loop, answers with its process id,
and, once that has died, with its exit status. torch is imported once, before the forks.

After each save that returned, the child appends ``<sequence number>`` to the file ``acks``.
"""

import itertools
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.tree import save_tree
from ironloom.weights import save_weights


def state(number: int) -> dict[str, object]:
    """What the save with this number holds."""
    return {"number": number, "moment": torch.full((20_000,), float(number))}


def weights(number: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((30_000,), float(number))}


def write(folder: Path, number: int) -> None:
    save_weights(weights(number), folder, max_shard_bytes=60_000)
    save_tree(state(number), folder, "optimizer")


def save_forever(request: dict[str, int | str]) -> None:
    folder = CheckpointFolder(str(request["root"]))
    chance = random.Random(request["seed"])
    folder.clean()
    last = folder.latest(print)
    first = last.info["number"] + 1 if last else 0
    step = last.step if last else 0
    acks = os.open(str(request["acks"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    best: Path | None = None
    for number in itertools.count(first):
        step += chance.choice([0, 1, 1])  # a third of all saves replace the checkpoint of their step
        path = folder.save(step, lambda staging, number=number: write(staging, number), {"number": number})
        os.write(acks, f"{number}\n".encode())
        if chance.random() < 0.2:
            best = path
        folder.retain(chance.choice([1, 2]), protect=[best] if best else [])
        if number - first + 1 == request.get("num_saves"):
            return


def die_at_change(nth: int) -> None:
    """Kill this process just before its nth change of the file system, if it makes so many."""
    numbers = itertools.count(1)
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        is_change = event in changes or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
        if is_change and next(numbers) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                if "change" in request:
                    die_at_change(request["change"])
                save_forever(request)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
