"""A disk that is full for one process, state that cannot be stored, saves in the background."""

from __future__ import annotations

import ctypes
import json
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom.checkpoint.background import BackgroundSaves
from ironloom.checkpoint.failures import SaveFailed
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.errors import RankError, ResourceError
from ironloom.trainer.publishing import publish_together
from ironloom.weights import load_weights
from ironloom.weights.parts import Part, tensor_parts, weight_parts
from ironloom.weights.peers import ALONE, Peers, new_peers
from parallel import topologies
from parallel.topologies import NUM_PROCESSES, Net, gathered, snapshot, trained
from spawned import run


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def big(peers: Peers, hold: bool = False) -> Iterator[Part]:
    """A megabyte of each process."""
    tensors = {f"rank {peers.rank}": torch.full((250_000,), float(peers.rank))}
    return tensor_parts(tensors, {}, "state", peers, hold=hold)


def with_a_full_disk(root: Path, victim: int, background: bool) -> tuple[str, list[str], int]:
    peers = topologies.start()
    folder = SharedFolder(CheckpointFolder(root), peers)
    saves = BackgroundSaves(folder, new_peers("background"))

    def save(step: int) -> Path | None:
        if not background:
            return folder.save(step, lambda: big(peers), {})
        saves.start(step, lambda: big(peers, hold=True), {})
        outcome = saves.wait()
        if outcome.error is not None:
            raise outcome.error
        return outcome.path

    save(1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if peers.rank == victim:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    with pytest.raises(SaveFailed) as error:
        save(2)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.step == 2
    torch.distributed.barrier()
    names = listing(root)
    torch.distributed.barrier()
    save(3)
    return str(error.value), names, folder.folder.complete()[-1].step


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_for_one_process_costs_all_of_them_one_save(tmp_path: Path, victim: int, background: bool) -> None:
    for message, names, last in run(with_a_full_disk, 2, tmp_path, victim, background):
        assert "step 2 could not be saved: File too large" in message
        assert f"(rank {victim})" in message
        assert names == ["checkpoint-1"]
        assert last == 3


def with_a_folder_that_cannot_be_made(root: Path) -> str:
    peers = topologies.start()
    root.parent.mkdir(exist_ok=True)
    root.write_text("a file") if peers.rank == 0 else None
    with pytest.raises(SaveFailed) as error:
        SharedFolder(CheckpointFolder(root), peers).save(1, lambda: big(peers), {})
    return str(error.value)


def test_a_folder_that_cannot_be_made_is_said_in_every_process(tmp_path: Path) -> None:
    one, other = run(with_a_folder_that_cannot_be_made, 2, tmp_path / "file")
    assert one == other and "rank 0" in one


def with_a_disk_of_its_own(root: Path, elsewhere: Path) -> str:
    peers = topologies.start()
    folder = SharedFolder(CheckpointFolder(root), peers)
    write = folder.write
    if peers.rank == 1:
        folder.write = lambda step, staging, parts: write(step, elsewhere, parts)  # type: ignore[method-assign]
    with pytest.raises(SaveFailed) as error:
        folder.save(1, lambda: big(peers), {})
    return str(error.value)


def test_a_folder_that_is_another_one_for_some_process_is_no_checkpoint(tmp_path: Path) -> None:
    for message in run(with_a_disk_of_its_own, 2, tmp_path / "run", tmp_path / "missing"):
        assert "(rank 1)" in message and "one and the same folder on every node" in message
    (tmp_path / "other").mkdir()
    for message in run(with_a_disk_of_its_own, 2, tmp_path / "run", tmp_path / "other"):
        assert "is the folder the same on every node?" in message
    assert listing(tmp_path / "run") == []


def with_something_unstorable(root: Path) -> str:
    peers = topologies.start()
    model, optimizer = trained("dp2", seed=1, steps=1)
    if peers.rank == 1:
        optimizer.state[model.embed.weight]["secret"] = object()
    parts = snapshot(model, optimizer, root).parts
    try:
        SharedFolder(CheckpointFolder(root), peers).save(1, lambda: parts(peers), {})
    except (TypeError, RankError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_state_that_cannot_be_stored_in_one_process_ends_the_save_in_all(tmp_path: Path) -> None:
    one, other = run(with_something_unstorable, 2, tmp_path)
    assert one.startswith("RankError: rank 1 failed: TypeError: state")
    assert other.startswith("TypeError: state")
    assert listing(tmp_path) == []


def in_the_background(root: Path, topology: str) -> int:
    peers = ALONE if topology == "one" else topologies.start()
    model, optimizer = trained(topology, seed=1, steps=2)
    here = snapshot(model, optimizer, root)
    SharedFolder(CheckpointFolder(root / "sync"), peers).save(3, lambda: here.parts(peers), {})
    threads = ALONE if topology == "one" else new_peers("background")
    saves = BackgroundSaves(SharedFolder(CheckpointFolder(root / "async"), peers), threads)
    release = threading.Event()
    slow_down(saves.folder, release)
    assert saves.start(3, lambda: here.parts(peers, hold=True), {}) is None, "returns before anything is written"
    with torch.no_grad():  # training goes on while nothing is written yet
        for parameter in model.parameters():
            parameter.mul_(2.0)
        for state in optimizer.state.values():
            for value in state.values():
                value.add_(1.0)
    release.set()
    begin = time.perf_counter()
    before = saves.start(4, lambda: here.parts(peers, hold=True), {})
    assert (before.step, before.error) == (3, None)
    assert before.path == root / "async" / "checkpoint-3" and (before.path / "manifest.json").exists(), "complete before the next begins"
    last = saves.wait()
    assert last.step == 4 and last.waited <= time.perf_counter() - begin
    assert saves.wait() is None
    assert before.written >= 0.2 and before.blocked == before.waited + before.copied
    return before.num_bytes


def content(path: Path) -> tuple[Any, bytes]:
    """The bytes of a file; the header of a safetensors file, which the library orders at random, as what it says."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return None, data
    length = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:length]), data[length:]


def slow_down(folder: SharedFolder, release: threading.Event) -> None:
    write = folder.write

    def later(*args: Any) -> Any:
        release.wait(10)
        time.sleep(0.2)
        return write(*args)

    folder.write = later  # type: ignore[method-assign]


@pytest.mark.parametrize("topology", ["one", "dp2", "fsdp2", "tp2"])
def test_a_save_in_the_background_is_byte_for_byte_that_of_the_foreground(tmp_path: Path, topology: str) -> None:
    if topology == "one":
        results = [in_the_background(tmp_path, topology)]
    else:
        results = run(in_the_background, 2, tmp_path, topology)
    sync, background = tmp_path / "sync" / "checkpoint-3", tmp_path / "async" / "checkpoint-3"
    assert listing(sync) == listing(background)
    files = [name for name in listing(sync) if name != "manifest.json"]
    assert len(files) >= 5
    for name in files:
        assert content(sync / name) == content(background / name), name
    assert (tmp_path / "async" / "checkpoint-4" / files[0]).exists()
    assert sum(results) > 1000


def published(root: Path, topology: str) -> dict[str, torch.Tensor]:
    peers = topologies.start()
    model, optimizer = trained(topology, seed=1, steps=1)
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        if peers.rank == 0:
            (root / name).write_text("of an earlier run")

    publish_together(model, None, root, peers)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if peers.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    with pytest.raises(ResourceError, match="could not be written"):
        publish_together(model, None, root, peers)
    return gathered(model, optimizer)


@pytest.mark.parametrize("topology", ["fsdp2", "pp2", "pp2-fsdp2"])
def test_a_model_of_several_processes_is_published_as_one_file(tmp_path: Path, topology: str) -> None:
    truth = {name: value for part in run(published, NUM_PROCESSES[topology], tmp_path, topology) for name, value in part.items()}
    assert listing(tmp_path) == ["model.safetensors"]
    model = Net()
    load_weights(tmp_path, model)
    assert all(torch.equal(value, truth[name]) for name, value in model.state_dict().items())


class Counter:
    """A callback with state."""

    def __init__(self, count: int):
        self.count, self.values = count, torch.full((3,), float(count))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.values = state["count"], state["values"]


def save_counts(root: Path, counts: list[int]) -> None:
    peers = topologies.start()
    parts = snapshot(*trained("dp2", seed=1, steps=1), root, [Counter(counts[peers.rank])]).parts
    SharedFolder(CheckpointFolder(root), peers).save(3, lambda: parts(peers), {})


def load_counts(root: Path, alone: bool) -> tuple[int, list[float]]:
    counter = Counter(0)
    snapshot(*trained("dp2", seed=1, steps=1), root, [counter]).read(
        root / "checkpoint-3", pytest.fail, ALONE if alone else topologies.start()
    )
    return counter.count, counter.values.tolist()


def test_callbacks_of_each_process_get_their_own_state_back(tmp_path: Path) -> None:
    run(save_counts, 3, tmp_path, [5, 6, 5])
    assert [name for name in listing(tmp_path / "checkpoint-3") if name.startswith("callbacks")] == [
        "callbacks-rank-00001.json",
        "callbacks-rank-00001.safetensors",
    ]
    assert run(load_counts, 3, tmp_path, False) == [(5, [5.0] * 3), (6, [6.0] * 3), (5, [5.0] * 3)]
    assert run(load_counts, 2, tmp_path, False) == [(5, [5.0] * 3)] * 2, "as many processes are no more: all get the first one's"
    assert load_counts(tmp_path, True) == (5, [5.0] * 3)


MEGABYTES = 2**20
NUM_TENSORS = 12


def growth_while_saving(root: Path) -> float:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    # M_MMAP_MAX, M_MMAP_THRESHOLD: what is freed goes back, whatever this process did before, so that the peak is that of what lives.
    for option, value in ((-4, 65536), (-3, MEGABYTES)):
        ctypes.CDLL("libc.so.6").mallopt(option, value)
    peers = topologies.start()
    mesh = init_device_mesh("cpu", (2,))
    state = {
        f"weight {index}": distribute_tensor(torch.full((4 * MEGABYTES,), 1.0), mesh, [Shard(0)], src_data_rank=None)
        for index in range(NUM_TENSORS)
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for part in weight_parts(state, peers, max_shard_bytes=16 * MEGABYTES):
        part.write(root)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_a_save_holds_one_file_and_a_tensor_more_than_training(tmp_path: Path) -> None:
    growth = run(growth_while_saving, 2, tmp_path)
    print(f"{growth} MiB in each process")
    assert len(listing(tmp_path)) == NUM_TENSORS + 1
    assert max(growth) < 100, f"the weights are {16 * NUM_TENSORS} MiB, one tensor 16 MiB, the growth {growth}"
