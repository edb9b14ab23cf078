"""A small trained model under several topologies, and its state gathered by PyTorch's own means."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # like the next ones before the processes are forked: each would take seconds for it
import torch.distributed.fsdp
import torch.distributed.tensor.parallel
from torch import nn

from ironloom.callbacks.handler import CallbackHandler
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.optim import NamedParameters
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.optimizer_state import hyperparameters
from ironloom.trainer.progress import Progress
from ironloom.trainer.snapshot import Snapshot
from ironloom.weights.peers import Peers, new_peers

NUM_PROCESSES = {"one": 1, "dp2": 2, "fsdp2": 2, "tp2": 2, "pp2": 2, "hsdp4": 4, "fsdp2-tp2": 4, "fsdp3": 3, "pp2-fsdp2": 4}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6, bias=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))


class Net(nn.Module):
    """Two blocks between an embedding and a head that is tied to it; a frozen scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.blocks = nn.ModuleDict({"0": Block(), "1": Block()})
        self.scale = nn.Parameter(torch.ones(5), requires_grad=False)
        self.head = nn.Linear(6, 8, bias=False)
        self.head.weight = self.embed.weight


def values(name: str, shape: Any, step: int) -> torch.Tensor:
    """Numbers that depend on nothing but these."""
    generator = torch.Generator().manual_seed(sum(name.encode()) + 1000 * step)
    return torch.randn(tuple(shape), generator=generator)


def start() -> Peers:
    """Meet the other processes."""
    torch.distributed.init_process_group("gloo")
    return new_peers("saving")


def made(topology: str, seed: int) -> nn.Module:
    """The model under a topology, its weights known."""
    model = Net()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values(name, parameter.shape, seed))
        model.blocks["1"].calls += seed
    if topology.startswith("pp2"):
        first = torch.distributed.get_rank() < NUM_PROCESSES[topology] // 2
        del model.blocks["1" if first else "0"]
        if first:
            del model.head
        else:
            del model.scale
    return laid_out(model, topology)


def laid_out(model: nn.Module, topology: str) -> nn.Module:
    if topology in ("one", "dp2", "pp2"):
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    shapes = {
        "fsdp2": ((2,), ("shard",)),
        "fsdp3": ((3,), ("shard",)),
        "tp2": ((2,), ("tp",)),
        "hsdp4": ((2, 2), ("replicate", "shard")),
        "fsdp2-tp2": ((2, 2), ("shard", "tp")),
        "pp2-fsdp2": ((2, 2), ("pp", "shard")),
    }
    shape, names = shapes[topology]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    if "tp" in names:
        plan = {"blocks.*.up": ColwiseParallel(), "blocks.*.down": RowwiseParallel()}
        parallelize_module(model, mesh["tp"], plan)
    if "shard" in names:
        axes = tuple(name for name in names if name in ("replicate", "shard"))
        for block in model.blocks.values():
            fully_shard(block, mesh=mesh[axes])
        fully_shard(model, mesh=mesh[axes])
    return model


def trained(topology: str, seed: int, steps: int, factory: Any = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer (of a factory that takes named parameters, or AdamW) after some steps with known gradients."""
    model = made(topology, seed)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [pair for pair in named if pair[1].ndim > 1], "weight_decay": 0.1},
        {"params": [pair for pair in named if pair[1].ndim == 1], "weight_decay": 0.0},
    ]
    # One by one: PyTorch does not mix plain tensors and DTensors in one call.
    optimizer = torch.optim.AdamW(groups, lr=0.01, foreach=False) if factory is None else factory(NamedParameters(model))
    for step in range(steps):
        for name, parameter in named:
            parameter.grad = like(parameter, values(name, parameter.shape, step + 7))
        optimizer.step()
    return model, optimizer


def like(parameter: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """Full values, laid out as the parameter is, by PyTorch's own means."""
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(parameter, DTensor):
        return full
    everywhere = DTensor.from_local(full, parameter.device_mesh, [Replicate()] * parameter.device_mesh.ndim)
    return everywhere.redistribute(placements=parameter.placements)


def gathered(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and moments of this process's part of the model, in full, by PyTorch's own means."""
    full = {name: whole(value) for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        full |= {f"{name}:{key}": whole(value) for key, value in optimizer.state.get(parameter, {}).items()}
    return full


def whole(value: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, output_dir: Path, callbacks: Sequence[Any] = ()) -> Snapshot:
    args = TrainingArguments(output_dir=output_dir, save_optimizer_state=True, save_scheduler_state=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    engine: Any = types.SimpleNamespace(optimizer=optimizer, scheduler=scheduler, configured=hyperparameters(optimizer), scaler=None)
    return Snapshot(model, engine, TrainerState(global_step=3), TrainerControl(), Progress(), CallbackHandler(list(callbacks)), args)
