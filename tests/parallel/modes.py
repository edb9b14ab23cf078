"""Every way of spreading a run that is compared with one process. The tests run all of it, docs/equality.md shows what they measured.

A line more here is a test more and, after ``make equality``, a row more in the document.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.parallel.mesh import degrees_of
from ironloom.settings.pipeline import SCHEDULES
from parallel.pipelines import KINDS, small_model, with_pipeline
from spread import MODELS, spread_over

FAMILIES = ("decoder", "decoder, gated, untied", "llama", "llama, tied", "qwen2", "mistral", "gpt2")
SOME = ("decoder", "decoder, gated, untied", "llama, tied", "gpt2")


@dataclass(frozen=True)
class Mode:
    """A way of spreading a run.

    Attributes:
        nproc: Processes.
        sizes: Fields of DeviceParameters; None: none are given.
        models: Names of models that train so.
        quick: Those of them that train in every test run, the others only in the slow one.
        args: Further training arguments.
        reference: Those that one process needs for the same numbers.
        data: What it trains on, a name in ``spread.DATA``.
        schedule: The schedule of a PipelineTrainer; empty: another trainer trains.
        cls: Makes the trainer of what ``Trainer`` takes; None: ``Trainer``.
    """

    nproc: int
    sizes: Mapping[str, Any] | None = None
    models: tuple[str, ...] = FAMILIES
    quick: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    data: str = "uneven"
    schedule: str = ""
    cls: Any = field(default=None, compare=False)

    @property
    def slow(self) -> tuple[str, ...]:
        """Models that train so in the slow tests."""
        return tuple(model for model in self.models if model not in self.quick)

    @property
    def data_size(self) -> int:
        """Processes that read different samples."""
        return degrees_of(None if self.sizes is None else spread_over(**self.sizes), self.nproc).data


def model_of(name: str) -> Any:
    """What makes a model: one of two layers, or a ``deep`` one of four or five."""
    return functools.partial(small_model, name.removeprefix("deep ")) if name.startswith("deep ") else MODELS[name]


TWO = ("decoder", "llama, tied")
ALONE = {
    "data parallel": Mode(2, models=(*FAMILIES, "tiny"), quick=(*TWO, "tiny")),
    "data parallel, given": Mode(2, {"dp_replicate": 2}, TWO, TWO),
    "sharded": Mode(2, {"dp_shard": 2}, (*FAMILIES, "tiny"), (*TWO, "tiny")),
    "tensor parallel": Mode(2, {"tensor_parallel_size": 2}, quick=("decoder",)),
    "context parallel": Mode(2, {"context_parallel_size": 2}, quick=TWO),
}
ONE = ("decoder",)
SPLIT = {"tensor_parallel_size": 2, "sequence_parallel": True, "loss_parallel": True}
RING = {"context_parallel_size": 2, "context_parallel_rotate_method": "alltoall"}
PRODUCTS = {
    "data parallel x4": Mode(4, None, SOME),
    "hybrid sharded": Mode(4, {"dp_replicate": 2, "dp_shard": 2}, SOME, ONE),
    "sharded x4": Mode(4, {"dp_shard": "auto"}, SOME),
    "data x tensor parallel": Mode(4, {"dp_replicate": 2, "tensor_parallel_size": 2}, SOME),
    "sharded x tensor parallel": Mode(4, {"dp_shard": 2, "tensor_parallel_size": 2}, SOME, ONE),
    "data x context parallel": Mode(4, {"dp_replicate": 2, "context_parallel_size": 2}, SOME),
    "sharded x context parallel": Mode(4, {"dp_shard": 2, "context_parallel_size": 2}, SOME, ONE),
    "context x tensor parallel": Mode(4, {"context_parallel_size": 2, "tensor_parallel_size": 2}, SOME),
    "hybrid sharded x context parallel": Mode(8, {"dp_replicate": 2, "dp_shard": 2, "context_parallel_size": 2}, SOME),
    "sharded x context x tensor parallel": Mode(8, {"dp_shard": 2, "context_parallel_size": 2, "tensor_parallel_size": 2}, SOME),
}
FROZEN = ("llama, partly frozen",)
EAGER = {"torch_compile_backend": "aot_eager"}
OPTIONS = {
    "sharded, activations computed again": Mode(2, {"dp_shard": 2, "checkpoint_activations": True}, TWO, ONE),
    "sharded, weights in host memory": Mode(2, {"dp_shard": 2, "offload_parameters": True}, TWO, ONE),
    "sharded, compiled": Mode(2, {"dp_shard": 2, "compile_model": True}, TWO, args=EAGER),
    "data parallel, partly frozen": Mode(2, {"dp_replicate": 2}, FROZEN),
    "sharded, partly frozen": Mode(2, {"dp_shard": 2}, FROZEN, FROZEN),
    "tensor parallel, partly frozen": Mode(2, {"tensor_parallel_size": 2}, FROZEN, FROZEN),
    "context parallel, partly frozen": Mode(2, {"context_parallel_size": 2}, FROZEN),
}
SLICED = {
    "sharded x sequence and loss parallel": Mode(4, {"dp_shard": 2, **SPLIT}, SOME),
    "ring x sequence parallel": Mode(4, {**RING, "tensor_parallel_size": 2, "sequence_parallel": True}, SOME),
    "sharded x ring x loss parallel": Mode(8, {"dp_shard": 2, **RING, "tensor_parallel_size": 2, "loss_parallel": True}, SOME),
    "tensor parallel, loss parallel": Mode(2, {"tensor_parallel_size": 2, "loss_parallel": True}, quick=ONE),
    "tensor parallel, sequence parallel": Mode(2, {"tensor_parallel_size": 2, "sequence_parallel": True}, quick=ONE),
    "tensor parallel, sequence and loss parallel": Mode(2, SPLIT, quick=("llama, tied",)),
    "tensor parallel, compiled, products kept": Mode(
        2, {"tensor_parallel_size": 2, "compile_model": True, "checkpoint_activations": True, "recompute": "selective"}, TWO, args=EAGER
    ),
    "context parallel, ring": Mode(2, RING, quick=("llama, tied",)),
    "data x loss parallel, partly frozen": Mode(4, {"dp_replicate": 2, "tensor_parallel_size": 2, "loss_parallel": True}, FROZEN),
    "sharded x sequence and loss parallel, partly frozen": Mode(4, {"dp_shard": 2, **SPLIT}, FROZEN),
}
DEEP = tuple(f"deep {kind}" for kind in KINDS)
TIES = ("deep tied", "deep untied")
OTHERS = ("deep llama", "deep gpt2")
QUARTERS = {"split_spec": {f"model.layers.{index}": "end" for index in (0, 1, 3)}}
PAIR = {"pipeline_parallel_size": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3}
PIPELINES = {
    **{
        schedule.removeprefix("Schedule"): Mode(
            2, None, DEEP, TIES if schedule in ("Schedule1F1B", "ScheduleZBVZeroBubble") else (), schedule=schedule
        )
        for schedule in SCHEDULES
    },
    "InterleavedZeroBubble, activations computed again": Mode(
        2, None, TIES, (), {"checkpoint_sequential": True}, schedule="ScheduleInterleavedZeroBubble"
    ),
    "1F1B, two pipelines": Mode(4, None, TIES, TIES[:1], PAIR, schedule="Schedule1F1B"),
    "1F1B, four stages": Mode(4, None, TIES, (), QUARTERS, schedule="Schedule1F1B"),
}
STAGED = ("decoder", "llama", "decoder, gated, untied", "llama, tied", "gpt2", "qwen2")
#: What a pipeline of two is multiplied with.
FACTORS: dict[str, tuple[int, dict[str, Any]]] = {
    "data parallel": (4, {"dp_replicate": 2}),
    "sharded": (4, {"dp_shard": 2}),
    "tensor parallel": (4, {"tensor_parallel_size": 2}),
    "context parallel": (4, {"context_parallel_size": 2}),
    "hybrid sharded": (8, {"dp_replicate": 2, "dp_shard": 2}),
    "sharded x tensor parallel": (8, {"dp_shard": 2, "tensor_parallel_size": 2}),
    "sharded x context parallel": (8, {"dp_shard": 2, "context_parallel_size": 2}),
    "context x tensor parallel": (8, {"context_parallel_size": 2, "tensor_parallel_size": 2}),
}


def _staged(factor: str, models: tuple[str, ...], quick: tuple[str, ...] = (), **sizes: Any) -> Mode:
    nproc, others = FACTORS[factor]
    return Mode(nproc, {"pipeline_parallel_size": 2, **others, **sizes}, models, quick, EAGER)


def _scheduled(factor: str, schedule: str) -> Mode:
    """The plain trainer with the arguments of a pipeline."""
    nproc, others = FACTORS[factor]
    batch = 8 // degrees_of(spread_over(pipeline_parallel_size=2, **others), nproc).data
    pipeline = {"schedule_class": schedule, "stages_per_rank": SCHEDULES[schedule].least, "pipeline_chunks": 4}
    args, alone = {"per_device_train_batch_size": batch, **pipeline}, {"per_device_train_batch_size": 8}
    return Mode(nproc, {"pipeline_parallel_size": 2, **others}, ("deep tied", "deep llama"), (), args, alone, cls=with_pipeline)


STAGES = {
    "pipeline": Mode(2, {"pipeline_parallel_size": 2}, STAGED, ("decoder", "llama")),
    "pipeline x data parallel": _staged("data parallel", STAGED, ONE),
    "pipeline x sharded": _staged("sharded", STAGED, ONE),
    "pipeline x tensor parallel": _staged("tensor parallel", STAGED),
    "pipeline x context parallel": _staged("context parallel", STAGED, ONE),
    **{f"pipeline x {factor}": _staged(factor, STAGED) for factor, (nproc, _) in FACTORS.items() if nproc == 8},
    **{
        f"{schedule.removeprefix('Schedule')} x {factor}": _scheduled(factor, schedule)
        for schedule in SCHEDULES
        for factor in ("sharded", "tensor parallel", "context parallel")
    },
    "pipeline x sharded, activations computed again": _staged("sharded", ONE, ONE, checkpoint_activations=True),
    "pipeline x sharded, products kept": _staged("sharded", TWO, checkpoint_activations=True, recompute="selective"),
    "pipeline x tensor parallel, activations computed again": _staged("tensor parallel", ONE, checkpoint_activations=True),
    "pipeline x context parallel, activations computed again": _staged("context parallel", ONE, checkpoint_activations=True),
    "pipeline x context parallel, ring": _staged("context parallel", TWO, context_parallel_rotate_method="alltoall"),
    "pipeline, weights in host memory": Mode(2, {"pipeline_parallel_size": 2, "offload_parameters": True}, ONE),
    "pipeline x sharded, weights and moments in host memory": _staged("sharded", ONE, offload_parameters=True, offload_optimizer=True),
    "pipeline, compiled": Mode(2, {"pipeline_parallel_size": 2, "compile_model": True}, ONE, args=EAGER),
    "pipeline x sharded, compiled, activations computed again": _staged("sharded", ONE, compile_model=True, checkpoint_activations=True),
    "pipeline x tensor parallel, compiled": _staged("tensor parallel", ONE, compile_model=True),
}


def _accelerated(model: Any, values: dict[str, Any], **options: Any) -> Any:
    from ironloom.trainer import AccelTrainer

    return AccelTrainer(model, values, **options)


ACCELERATED = {
    "Accelerate": Mode(2, None, ("tiny", *ONE), ("tiny", *ONE), cls=_accelerated),
    "Accelerate x4": Mode(4, None, tuple(family for family in FAMILIES if family not in ONE), cls=_accelerated),
}
TURNED = ("decoder, gated, untied",)
WINDOWED = ("mistral, window",)
#: One process takes the other kernel.
FLEX = {"attention_kernel": "flex"}
#: Rows of several documents that do not see each other.
PACKED = {
    "packed, data parallel": Mode(2, {"dp_replicate": 2}, (*TURNED, "llama, tied", *WINDOWED), TURNED, data="packed"),
    "packed, sharded": Mode(2, {"dp_shard": 2}, (*TURNED, "gpt2", *WINDOWED), TURNED, data="packed"),
    "packed, tensor parallel": Mode(2, {"tensor_parallel_size": 2}, (*TURNED, "llama"), TURNED, data="packed"),
    "packed, context parallel": Mode(2, {"context_parallel_size": 2}, ("decoder", "llama", *WINDOWED), ("decoder", "llama"), data="packed"),
    "packed, context parallel, ring": Mode(2, RING, (*TURNED, *WINDOWED), data="packed"),
    "packed, sharded x context x tensor parallel": Mode(
        8, {"dp_shard": 2, "context_parallel_size": 2, "tensor_parallel_size": 2}, (*TURNED, "llama"), data="packed"
    ),
    "packed, sharded, compiled": Mode(2, {"dp_shard": 2, "compile_model": True}, TURNED, args=EAGER, data="packed"),
    "packed, sharded, activations computed again": Mode(2, {"dp_shard": 2, "checkpoint_activations": True}, TWO, data="packed"),
    "packed, pipeline": Mode(2, {"pipeline_parallel_size": 2}, (*TURNED, "llama", *WINDOWED), TURNED, data="packed"),
    "packed, pipeline x context parallel": Mode(
        4, {"pipeline_parallel_size": 2, "context_parallel_size": 2}, (*TURNED, "llama"), args=EAGER, data="packed"
    ),
    "packed, Accelerate": Mode(2, None, (*TURNED, "llama"), cls=_accelerated, data="packed"),
    "packed, flex, data parallel": Mode(2, {"dp_replicate": 2}, TURNED, args=FLEX, data="packed"),
    "packed, flex, sharded, activations computed again": Mode(
        2, {"dp_shard": 2, "checkpoint_activations": True}, TURNED, TURNED, args=FLEX, data="packed"
    ),
    "packed, flex, sharded, compiled": Mode(2, {"dp_shard": 2, "compile_model": True}, TURNED, args={**FLEX, **EAGER}, data="packed"),
    "packed, flex, tensor parallel": Mode(2, {"tensor_parallel_size": 2}, TURNED, TURNED, args=FLEX, data="packed"),
    "packed, flex, pipeline": Mode(2, {"pipeline_parallel_size": 2}, TURNED, TURNED, args=FLEX, data="packed"),
    "packed, flex, Accelerate": Mode(2, None, TURNED, args=FLEX, cls=_accelerated, data="packed"),
}
#: Labels that do not all count alike.
WEIGHTED = {
    "weighted, data parallel": Mode(2, {"dp_replicate": 2}, ("decoder", "gpt2"), ONE, data="weighted"),
    "weighted, sharded": Mode(2, {"dp_shard": 2}, TWO, data="weighted"),
    "weighted, context parallel": Mode(2, {"context_parallel_size": 2}, TWO, ONE, data="weighted"),
    "weighted, tensor parallel, loss parallel": Mode(2, {"tensor_parallel_size": 2, "loss_parallel": True}, TWO, ONE, data="weighted"),
    "weighted, sharded x sequence and loss parallel": Mode(4, {"dp_shard": 2, **SPLIT}, ONE, data="weighted"),
    "weighted, pipeline": Mode(2, {"pipeline_parallel_size": 2}, TWO, ONE, data="weighted"),
    "weighted, pipeline x context parallel": Mode(
        4, {"pipeline_parallel_size": 2, "context_parallel_size": 2}, ONE, args=EAGER, data="weighted"
    ),
    "weighted, Accelerate": Mode(2, None, TWO, cls=_accelerated, data="weighted"),
}
OWN = ("regression", "own loader", "sums and weights", "adversaries", "classifier")
#: Trainers with steps of their own, on data that is no text; ``test_dream.py`` trains them.
OWN_STEPS = {
    "own steps, data parallel": Mode(2, {"dp_replicate": 2}, OWN, OWN[:4]),
    "own steps, sharded": Mode(2, {"dp_shard": 2}, (*OWN, "own sharding"), ("regression", "adversaries", "classifier", "own sharding")),
    "own steps, hybrid sharded": Mode(4, {"dp_replicate": 2, "dp_shard": 2}, ("classifier",)),
}

#: Sections of the document.
SECTIONS = {
    "One axis": ALONE,
    "Products": PRODUCTS,
    "Options": OPTIONS,
    "Slices of sequences, columns of logits, rings": SLICED,
    "Pipelines": PIPELINES,
    "Pipelines of the plain trainer": STAGES,
    "Accelerate": ACCELERATED,
    "Packed rows": PACKED,
    "Weighted labels": WEIGHTED,
    "Steps of one's own": OWN_STEPS,
}
MODES = {name: mode for section in SECTIONS.values() for name, mode in section.items()}
assert len(MODES) == sum(map(len, SECTIONS.values())), "a name occurs twice"
