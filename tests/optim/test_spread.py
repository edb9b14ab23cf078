"""Optimizers on weights of which each process has a part: the numbers and the state of one process, whatever the parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import optim
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.optim import NamedParameters
from ironloom.weights.peers import ALONE
from optim.choices import OPTIMIZERS, SPREAD, net
from parallel import topologies
from parallel.topologies import NUM_PROCESSES, gathered, like, snapshot, trained, values
from spawned import run
from spread import MODELS, spread_over, together, train

#: What PyTorch's fused kernels do not take is a mixture of plain tensors and parts; no engine makes one.
NAMES = ["sgd", "adafactor", "lion", "muon"]


def trained_by_all(topology: str) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and state after three steps with each optimizer, in full."""
    if topology != "one":
        topologies.start()
    return {name: gathered(*trained(topology, 1, 3, factory_of(name))) for name in NAMES}


def factory_of(name: str) -> Callable[..., Any]:
    return OPTIMIZERS[name] if name != "muon" else plain_muon


def plain_muon(named_parameters: NamedParameters) -> Any:
    """Muon of every matrix: AdamW for the rest is tested by everybody else."""
    matrices = [pair for pair in named_parameters if pair[1].ndim == 2]
    optimizer = optim.Muon([{"params": matrices}], [], lr=0.01, weight_decay=0.1)
    for _, parameter in named_parameters:
        parameter.requires_grad_(parameter.ndim == 2)
    return optimizer


@pytest.mark.parametrize(
    "topology", ["fsdp2", "tp2", "fsdp2-tp2", pytest.param("fsdp3", marks=pytest.mark.slow), pytest.param("hsdp4", marks=pytest.mark.slow)]
)
def test_equal_gradients_give_equal_weights_and_state(topology: str) -> None:
    """Bit for bit: matrices are put together, and what is done number by number does not look at others."""
    expected = trained_by_all("one")
    for found in run(trained_by_all, NUM_PROCESSES[topology], topology, timeout=120):
        for name in NAMES:
            assert found[name].keys() <= expected[name].keys() | {"head.weight"}
            different = [key for key, value in found[name].items() if not torch.equal(value, expected[name][key])]
            assert different == [], name


def test_state_saved_in_parts_is_read_by_one_and_by_others(tmp_path: Path) -> None:
    def save(root: Path) -> None:
        peers = topologies.start()
        for name in NAMES:
            model, optimizer = trained("fsdp2", 1, 3, factory_of(name))
            parts = snapshot(model, optimizer, root / name).parts
            SharedFolder(CheckpointFolder(root / name), peers).save(3, lambda parts=parts: parts(peers), {})

    def went_on(topology: str, root: Path) -> dict[str, dict[str, torch.Tensor]]:
        peers = ALONE if topology == "one" else topologies.start()
        found = {}
        for name in NAMES:
            model, optimizer = trained(topology, 2, 1, factory_of(name))
            snapshot(model, optimizer, root / name).read(root / name / "checkpoint-3", pytest.fail, peers)
            for key, parameter in model.named_parameters():
                parameter.grad = like(parameter, values(key, parameter.shape, 10)) if parameter.requires_grad else None
            optimizer.step()
            found[name] = gathered(model, optimizer)
        return found

    run(save, 2, tmp_path, timeout=120)
    expected = {name: gathered(*trained("one", 1, 4, factory_of(name))) for name in NAMES}
    for found in [went_on("one", tmp_path), *run(went_on, 4, "fsdp2-tp2", tmp_path, timeout=120)]:
        for name in NAMES:
            different = [key for key, value in found[name].items() if not torch.equal(value, expected[name][key])]
            assert different == [], name


#: Rounding decides the sign of a momentum near zero, and Muon computes in bfloat16: equal to what that leaves.
TOLERANCES = {"adamw": 1e-5, "adam_l2": 1e-5, "sgd": 1e-5, "adafactor": 1e-4, "lion": 1e-2, "muon": 1e-2}
SIZES = {"sharded": {"dp_shard": 2}, "tensor parallel": {"tensor_parallel_size": 2}, "data parallel": {"dp_replicate": 2}}


@pytest.mark.parametrize("sizes", [pytest.param(name, marks=[pytest.mark.slow] * (name != "sharded")) for name in SIZES])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "muon")) for name in SPREAD])
def test_a_run_is_that_of_one_process(name: str, sizes: str) -> None:
    make, data_size = optimized(name), 1 if sizes == "tensor parallel" else 2
    one = train(MODELS["decoder"], None, 1, cls=make)
    for other in together(MODELS["decoder"], 2, spread_over(**SIZES[sizes]), data_size, cls=make):
        errors = [abs(a - b) / abs(a) for (_, a), (_, b) in zip(one.losses, other.losses, strict=True)]
        assert max(errors) < TOLERANCES[name]
    first, last = one.losses[0][1], one.losses[-1][1]
    assert not math.isclose(first, last, rel_tol=0.01), "it moved"


def optimized(name: str) -> Callable[..., Any]:
    """A trainer with an optimizer that leaves gradients alone that are zero but for rounding, as far as it can."""
    options = {"eps": 1e-4} if name.startswith("adam") or name == "muon" else {}

    def make(*args: Any, **kwargs: Any) -> Any:
        from ironloom import Trainer

        return Trainer(*args, optimizer_factory=lambda named: OPTIMIZERS[name](named, **options), **kwargs)

    return make


def refused() -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    topologies.start()
    model = net()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ValueError) as caught:
        OPTIMIZERS["adamw_8bit"](NamedParameters(model))
    return str(caught.value)


def test_eight_bits_refuse_parts_by_name() -> None:
    assert all("blocks of whole tensors" in message for message in run(refused, 2))
