"""A rank that trains nothing: KIND RANK STEP LIMIT STEPS [FOLDER]; at that step that rank has that fault."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ironloom.parallel.launch_agent import TOKEN
from ironloom.parallel.launch_logs import settle_in
from ironloom.parallel.watch import Watch
from ironloom.parallel.watch_store import open_store

kind, culprit, at, limit, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def happened():
    """The moment of the fault, for the test."""
    Path(os.environ.get("IRONLOOM_LOGS") or sys.argv[6], "fault").write_text(str(time.time()))


def read(step, hit):
    if hit and kind == "exception":
        happened()
        raise KeyError("no such sample")  # fault: exception
    if hit and kind == "loader":
        happened()
        time.sleep(1000)  # fault: loader
    if hit and kind == "deaf":
        happened()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if hit and kind == "slow":
        time.sleep(0.7 * limit)
    return torch.ones(4)


def train(watch):
    for step in range(steps):
        hit = rank == culprit and step == at
        watch.phase("data", step)  # fault: skip
        batch = read(step, hit)
        if hit and kind == "skip":
            happened()
            continue
        watch.phase("forward", step)  # fault: stop kill
        if hit and kind in ("stop", "kill"):
            happened()
            os.kill(os.getpid(), signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        time.sleep(0.002)
        if hit and kind == "order":
            happened()
            dist.broadcast(batch, 0)  # fault: order
            dist.all_reduce(batch)
        else:
            dist.all_reduce(batch)
            dist.broadcast(batch, 0)
        watch.phase("optimizer", step)
        if kind == "slow" and step % 3 == 0:
            time.sleep(0.3 * limit)


settle_in(os.environ)
if kind == "deaf":
    signal.signal(signal.SIGTERM, lambda signum, frame: None)  # noted, as in training; acted upon at the end of a step
token = os.environ.get(TOKEN) or os.environ["TORCHELASTIC_RUN_ID"]
store = open_store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), token)
try:
    with Watch(store, rank, world, token, limit=limit, observes=TOKEN not in os.environ) as watch:
        watch.phase("start", -1, 60.0)
        dist.init_process_group("gloo")
        train(watch)
        dist.destroy_process_group()
        print(f"rank {rank} is done")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(5)
