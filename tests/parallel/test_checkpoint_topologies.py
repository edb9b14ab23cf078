"""What was saved under one topology comes back under every other, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import verify
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.errors import CheckpointError
from ironloom.weights.peers import ALONE
from parallel import topologies
from parallel.topologies import NUM_PROCESSES, Net, gathered, snapshot, trained
from spawned import run

TOPOLOGIES = list(NUM_PROCESSES)


def save(topology: str, root: Path) -> dict[str, torch.Tensor]:
    peers = ALONE if topology == "one" else topologies.start()
    model, optimizer = trained(topology, seed=1, steps=3)
    parts = snapshot(model, optimizer, root).parts
    SharedFolder(CheckpointFolder(root), peers).save(3, lambda: parts(peers), {})
    return gathered(model, optimizer)


def load(topology: str, roots: dict[str, Path]) -> dict[str, dict[str, torch.Tensor]]:
    peers = ALONE if topology == "one" else topologies.start()
    found = {}
    for source, root in roots.items():
        model, optimizer = trained(topology, seed=2, steps=1)
        snapshot(model, optimizer, root).read(root / "checkpoint-3", pytest.fail, peers)
        assert {group["lr"] for group in optimizer.param_groups} == {0.01}
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
        found[source] = gathered(model, optimizer)
        for name, parameter in model.named_parameters():
            parameter.grad = topologies.like(parameter, topologies.values(name, parameter.shape, 99)) if parameter.requires_grad else None
        optimizer.step()  # what was restored can be trained
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint of every topology, and what the processes had."""
    roots = {}
    for topology in TOPOLOGIES:
        root = tmp_path_factory.mktemp(topology)
        parts = [save("one", root)] if topology == "one" else run(save, NUM_PROCESSES[topology], topology, root)
        torch.save({name: value for part in parts for name, value in part.items()}, root / "truth.pt")
        roots[topology] = root
    return roots


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_resumes_every_other_bit_for_bit(topology: str, saved: dict[str, Path]) -> None:
    results = [load("one", saved)] if topology == "one" else run(load, NUM_PROCESSES[topology], topology, saved)
    for source, root in saved.items():
        truth = torch.load(root / "truth.pt")
        found = {name: value for result in results for name, value in result[source].items()}
        assert found.keys() <= truth.keys() | {"head.weight"} and len(found) > 20
        for result in results:
            for name, value in result[source].items():
                assert torch.equal(value, truth[name]), f"{name} from {source} to {topology}"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_others_read_the_weights_without_conversion(topology: str, saved: dict[str, Path]) -> None:
    folder = saved[topology] / "checkpoint-3"
    assert verify(folder, deep=True) == []
    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    assert len(names) == NUM_PROCESSES[topology], "every process writes its part"
    stored = {name: value for file in names for name, value in safetensors.torch.load_file(folder / file).items()}
    model = Net()
    model.load_state_dict({"head.weight": stored["embed.weight"], **stored})
    truth = torch.load(saved[topology] / "truth.pt")
    assert all(torch.equal(value, truth[name]) for name, value in model.state_dict().items())
    sizes = [(folder / file).stat().st_size for file in names]
    assert max(sizes) < 2.5 * min(sizes), f"a like share each, found {sizes}"


def broken(root: Path) -> list[str]:
    peers = topologies.start()
    model, optimizer = trained("fsdp2", seed=2, steps=1)
    (root / "checkpoint-3" / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
    torch.distributed.barrier()
    try:
        snapshot(model, optimizer, root).read(root / "checkpoint-3", pytest.fail, peers)
    except CheckpointError as error:
        return [str(error)]
    return []


def test_a_missing_part_is_said_in_every_process(tmp_path: Path) -> None:
    run(save, 2, "fsdp2", tmp_path)
    for (message,) in run(broken, 2, tmp_path):
        assert "model-00002-of-00002.safetensors is missing" in message
