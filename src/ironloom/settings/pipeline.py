"""Arguments of the pipeline trainer, and what can be known of a pipeline before any process starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ironloom.errors import Problem
from ironloom.settings.base import nearest, setting
from ironloom.settings.training import Count, TrainingArguments

Side = Literal["beginning", "end"]


@dataclass(frozen=True)
class ScheduleRule:
    """What a schedule of ``torch.distributed.pipelining`` asks for.

    Attributes:
        least: Stages on each rank, at least.
        most: Stages on each rank, at most; None: any number.
        is_v: Rank ``r`` holds stages ``r`` and ``last - r`` instead of ``r, r + ranks, ...``.
        chunks: What the number of chunks must be: ``any``, ``stages`` (at least one for each stage) or ``rounds``
            (the same number in each round of about one chunk for each rank).
        splits_backward: Gradients of inputs and of weights are computed apart.
    """

    least: int
    most: int | None
    is_v: bool = False
    chunks: Literal["any", "stages", "rounds"] = "any"
    splits_backward: bool = False

    def allows_chunks(self, chunks: int, ranks: int, stages: int) -> bool:
        """Whether a number of chunks fits."""
        if self.chunks == "stages":
            return chunks >= stages
        return self.chunks == "any" or chunks % max(1, chunks // ranks) == 0


SCHEDULES: Mapping[str, ScheduleRule] = {
    "ScheduleGPipe": ScheduleRule(1, 1),
    "Schedule1F1B": ScheduleRule(1, 1, chunks="stages"),
    "ScheduleInterleaved1F1B": ScheduleRule(2, None, chunks="rounds"),
    "ScheduleLoopedBFS": ScheduleRule(2, None),
    "ScheduleInterleavedZeroBubble": ScheduleRule(2, None, chunks="rounds", splits_backward=True),
    "ScheduleZBVZeroBubble": ScheduleRule(2, 2, is_v=True, splits_backward=True),
    "ScheduleDualPipeV": ScheduleRule(2, 2, is_v=True, chunks="stages", splits_backward=True),
}


DEFAULT_SCHEDULE = "ScheduleGPipe"


def schedule_name(name: str) -> str | None:
    """The full name of a schedule that may be given without ``Schedule`` and in any case; None if there is none."""
    wanted = name.lower().removeprefix("schedule")
    return next((known for known in SCHEDULES if known.lower().removeprefix("schedule") == wanted), None)


@dataclass
class PipelineTrainingArguments(TrainingArguments):
    """:class:`TrainingArguments` and how the model is cut into stages."""

    split_spec: dict[str, Side] | None = setting(
        None, "Where the model is cut: module path -> 'beginning' or 'end'; null: into stages of equal work."
    )
    pipeline_chunks: Count = setting(1, "Parts of a batch that follow each other through the pipeline.")
    stages_per_rank: Count = setting(1, "Stages that each process holds.")
    schedule_class: str = setting(DEFAULT_SCHEDULE, "Order of the work: a schedule of torch.distributed.pipelining by name.")
    checkpoint_sequential: bool = setting(False, "Keep only the inputs of layers, and compute the rest again in the backward pass.")
    pipeline_parallel_size: Count | None = setting(None, "Processes that a copy of the model is spread over; null: all.")

    def problems(self) -> Iterable[Problem]:
        """Combinations that no number of processes makes work."""
        yield from super().problems()
        if self.fp16:
            yield Problem("the loss scaler of fp16 does not know of stages on other processes", path="fp16", hint="use bf16")
        # Several stages with the default class: the trainer may get a factory of another one, and checks then.
        if self.schedule_class != DEFAULT_SCHEDULE or self.stages_per_rank == 1:
            yield from pipeline_problems(self, self.pipeline_parallel_size)


#: Chunks for each process of a pipeline, where the arguments name no number: with four a process waits less than a fifth of the time.
CHUNKS_PER_RANK = 4


def pipeline_arguments(args: TrainingArguments, ranks: int) -> PipelineTrainingArguments:
    """The arguments of a pipeline: those that are given, or for a trainer that knows only the size of the pipeline, these.

    A batch becomes as many equal chunks as it has samples, but at most four for each process, and goes through one
    stage on each process in the order of 1F1B; where there are fewer chunks than stages, in that of GPipe.

    Args:
        args: Of the trainer.
        ranks: Processes of the pipeline.

    Raises:
        ConfigError: For arguments that a pipeline cannot have.
    """
    if isinstance(args, PipelineTrainingArguments):
        return args
    samples = args.per_device_train_batch_size
    chunks = -(-samples // -(-samples // (CHUNKS_PER_RANK * ranks)))
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainingArguments)}
    schedule = "Schedule1F1B" if SCHEDULES["Schedule1F1B"].allows_chunks(chunks, ranks, ranks) else DEFAULT_SCHEDULE
    return PipelineTrainingArguments(**given, pipeline_chunks=chunks, schedule_class=schedule)


def pipeline_problems(args: PipelineTrainingArguments, ranks: int | None, num_layers: int | None = None) -> Iterable[Problem]:
    """What does not fit, each with the nearest setting that does.

    Args:
        args: The pipeline.
        ranks: Processes of a pipeline; None: not known yet.
        num_layers: Layers that can be told apart; None: not known yet.
    """
    name = schedule_name(args.schedule_class)
    if name is None:
        near = nearest(args.schedule_class, SCHEDULES)
        meant = f"did you mean {near}? " if near else ""
        yield Problem(
            f"there is no schedule {args.schedule_class!r}", path="schedule_class", hint=f"{meant}There are {', '.join(SCHEDULES)}"
        )
        return
    rule = SCHEDULES[name]
    if args.stages_per_rank < rule.least or (rule.most is not None and args.stages_per_rank > rule.most):
        wanted = f"{rule.least}" if rule.least == rule.most else f"at least {rule.least}"
        fitting = rule.least if args.stages_per_rank < rule.least else rule.most
        yield Problem(
            f"{name} needs {wanted} stage{'s' * (wanted != '1')} on each rank, not {args.stages_per_rank}",
            path="stages_per_rank",
            hint=f"set it to {fitting}, or choose {_schedule_for(args.stages_per_rank)}",
        )
        return
    if args.pipeline_chunks > args.per_device_train_batch_size:
        size = args.per_device_train_batch_size
        message = f"{args.pipeline_chunks} chunks cannot be made of a batch of {size}"
        yield Problem(message, path="pipeline_chunks", hint=f"set it to {size}, or per_device_train_batch_size to {args.pipeline_chunks}")
    if ranks is not None:
        yield from _world_problems(args, name, rule, ranks, num_layers)


def _world_problems(
    args: PipelineTrainingArguments, name: str, rule: ScheduleRule, ranks: int, num_layers: int | None
) -> Iterable[Problem]:
    stages = ranks * args.stages_per_rank
    made_of = f"pipeline_parallel_size {ranks} x stages_per_rank {args.stages_per_rank}"
    if args.split_spec and len(args.split_spec) + 1 != stages:
        yield Problem(
            f"{len(args.split_spec)} cuts make {len(args.split_spec) + 1} stages, but {made_of} are {stages}",
            path="split_spec",
            hint=f"name {stages - 1} cuts, or leave it out for {stages} stages of equal work",
        )
    if num_layers is not None and stages > num_layers:
        fitting = max(1, num_layers // args.stages_per_rank)
        yield Problem(
            f"{stages} stages ({made_of}) are more than the {num_layers} layers of the model",
            path="pipeline_parallel_size",
            hint=f"at most {fitting} processes with {args.stages_per_rank} stages on each",
        )
    if not rule.allows_chunks(args.pipeline_chunks, ranks, stages):
        fitting = _nearest_count(args.pipeline_chunks, lambda chunks: rule.allows_chunks(chunks, ranks, stages))
        what = f"at least {stages} chunks, one for each stage" if rule.chunks == "stages" else f"equal rounds of chunks on {ranks} ranks"
        yield Problem(f"{name} needs {what}, not {args.pipeline_chunks}", path="pipeline_chunks", hint=f"set it to {fitting}")


def _schedule_for(stages_per_rank: int) -> str:
    return next(name for name, rule in SCHEDULES.items() if rule.least <= stages_per_rank <= (rule.most or stages_per_rank))


def _nearest_count(count: int, fits: Callable[[int], bool]) -> int:
    """The nearest number that fits; of two the greater, which makes the smaller bubble."""
    distance = 0
    while True:
        for candidate in (count + distance, count - distance):
            if candidate >= 1 and fits(candidate):
                return candidate
        distance += 1
