"""One process of a large run, without the others and without memory: real code on fake tensors and a fake process group.

The engine that would train is made and runs one optimizer step. Every tensor has a shape, a type and a place, but no content
(``FakeTensorMode``), and every collective returns at once (the ``fake`` backend of ``torch.distributed``). What is
counted is what PyTorch was asked for: bytes of storages that are alive at the same time, and bytes given to collectives.

An allocator rounds sizes and leaves gaps, libraries take room of their own, kernels use scratch space: none of that is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from meter import Meter
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.attention import bias
from torch.testing._internal.distributed.fake_pg import FakeStore

from ironloom.models import attention
from ironloom.models.build import allocate
from ironloom.models.config import DecoderConfig
from ironloom.objectives import CrossEntropy, chunked
from ironloom.optim.adamw import AdamW
from ironloom.parallel import context_attention, context_ring
from ironloom.parallel.mesh import AXES, Place, degrees_of, make_mesh
from ironloom.parallel.norms import local
from ironloom.parallel.team import Ranks
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.model import ModelConfig
from ironloom.settings.pipeline import PipelineTrainingArguments
from ironloom.settings.training import TrainingArguments
from ironloom.trainer import pipeline_engine
from ironloom.trainer.engine import NativeEngine
from ironloom.trainer.parallel_engine import make_engine

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """What is simulated: one optimizer step of one batch in each data parallel process.

    Attributes:
        model: Shape of the built-in decoder.
        vocabulary: Number of tokens.
        world: Processes.
        parameters: How they are used.
        length: Tokens of a sample.
        samples: Samples of the batch of each data parallel process.
        arguments: Further training arguments, for pipelines.
    """

    model: ModelConfig
    vocabulary: int
    world: int
    parameters: DeviceParameters
    length: int
    samples: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """Bytes of one process.

    Attributes:
        weights: Its part of the weights, as they are stored.
        gradients: Their gradients, after the backward pass.
        moments: State of the optimizer.
        kept: What the forward pass leaves for the backward pass, logits among it. With several chunks in a pipeline: of all that
            are under way at once.
        peak: Largest sum of everything at one time.
        moved: Sent in a step, by the axes of the mesh that it is sent along; rings assumed.
    """

    weights: int
    gradients: int
    moments: int
    kept: int
    peak: int
    moved: dict[str, int]


def simulate(run: Run, stage: int = 0) -> Figures:
    """Figures of the first process of a pipeline's stage."""
    degrees = degrees_of(run.parameters, run.world)
    rank = stage * (run.world // degrees.pp)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=run.world)
    try:
        place = Place(rank, run.world, degrees, make_mesh(degrees, "cpu"))
        with FakeTensorMode(), as_accelerator():
            return step(run, place)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class NotedLoss(CrossEntropy):
    """Cross entropy that notes what is held when it is called: all that the forward pass keeps."""

    meter: Any = None
    held: list[int] = field(default_factory=list)

    def weight(self, batch: Any) -> int:
        """There are targets."""
        return 1

    def loss_sum(self, outputs: Any, batch: Any, total: int) -> Tensor:
        """The sum."""
        self.held.append(self.meter.now)
        return super().loss_sum(outputs, batch, total)


def step(run: Run, place: Place) -> Figures:
    """One optimizer step, counted: on fake tensors and processes, or on real ones."""
    meter = Meter(lambda ranks: axes_of(ranks, place))
    team = Ranks(place, CPU)
    model = allocate(DecoderConfig(run.model, run.vocabulary, run.vocabulary))
    ids = torch.zeros(run.samples, run.length, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    loss = NotedLoss(meter=meter)
    engine = _engine(run, model, team, loss, batch)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained)
    engine.set_optimizer(optimizer, None)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    engine.step()  # from now on there are moments
    engine.zero_grad()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    for tensor in (*trained, *moments):
        meter.see(local(tensor))
    lasting = meter.now
    with meter.counting():
        engine.forward_backward([batch], 1, ("step",), lambda: None)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        total = sum(map(_bytes, gradients))
        engine.clip(1.0, True)
        engine.step()
        del gradients
        engine.zero_grad()
    kept = max(loss.held, default=lasting) - lasting
    return Figures(sum(map(_bytes, trained)), total, sum(map(_bytes, moments)), kept, meter.peak, meter.moved)


def _engine(run: Run, model: nn.Module, team: Ranks, loss: CrossEntropy, batch: dict[str, Tensor]) -> NativeEngine:
    half = run.parameters.param_dtype == "bfloat16"
    if team.place.degrees.pp == 1:
        return make_engine(model, loss, TrainingArguments(bf16=half), run.parameters, team)
    arguments = PipelineTrainingArguments(bf16=half, per_device_train_batch_size=run.samples, **run.arguments)
    return pipeline_engine.PipelineEngine(model, loss, arguments, team, batch, None, run.parameters)


def _bytes(tensor: Tensor) -> int:
    return local(tensor).numel() * tensor.element_size()


def axes_of(ranks: list[int], place: Place) -> str:
    """The axes of the mesh along which these ranks differ."""
    coordinates = [Place(rank, place.world, place.degrees) for rank in ranks]
    return " ".join(axis for axis in AXES if len({each.coordinate(axis) for each in coordinates}) > 1)


@contextlib.contextmanager
def as_accelerator() -> Iterator[None]:
    """What depends on the device is done as on an accelerator, and what looks at the content of weights is left out."""
    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        replace(F, "scaled_dot_product_attention", _flash_attention)
        replace(attention, "SHORT", 0)
        replace(context_attention, "_band", lambda *_: None)
        replace(bias, "causal_lower_right", lambda *_: None)
        replace(chunked, "CPU_CHUNK", chunked.DEVICE_CHUNK)
        replace(context_ring, "CPU_SCORES", context_ring.DEVICE_SCORES)
        replace(nn.Module, "to", lambda module, *_: module)
        for owner, name in ((Place, "axes"), (Place, "shards"), (pipeline_engine, "_pipelines"), (DeviceMesh, "_concatenate")):
            replace(owner, name, _real(getattr(owner, name)))
        for place in ("ironloom.parallel.apply.broadcast_weights", "ironloom.parallel.pipeline.apply.broadcast_weights"):
            stack.enter_context(mock.patch(place))
        stack.enter_context(mock.patch("ironloom.parallel.pipeline.split.check_stages"))
        for place in ("ironloom.trainer.engine.token_error", "ironloom.trainer.pipeline_engine.token_error"):
            stack.enter_context(mock.patch(place, return_value=None))
        yield


def _real(function: Any) -> Any:
    """The numbers of ranks in a mesh have a content."""

    def called(*args: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args)

    return called


def _flash_attention(
    queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **_: Any
) -> Tensor:
    """Keeps queries, keys, values, the result and one number for each query and head, as kernels of accelerators do."""
    if torch.is_autocast_enabled("cpu"):
        queries, keys, values = (each.to(torch.get_autocast_dtype("cpu")) for each in (queries, keys, values))
    mixed: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, dropout_p, is_causal)[0]
    return mixed
