"""Arguments of the trainer over Accelerate: what it does with each argument of ``accelerate.Accelerator``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.errors import Problem
from ironloom.settings.base import setting, unknown_key
from ironloom.settings.training import TrainingArguments

_OURS = "the trainer reads the data itself, in an order that depends on data_seed alone"
_SPREAD = "train with ironloom.trainer:Trainer and its device_parameters"

#: Arguments that would change what is trained, or name a feature that stands elsewhere: why, and what to do instead.
REFUSED: Mapping[str, tuple[str, str]] = {
    "dataloader_config": (_OURS, "dispatch_batches stands in accelerator_args itself; the rest is in dataloader_... of the arguments"),
    "deepspeed_plugin": ("DeepSpeed brings an optimizer, a clipping and checkpoints of its own", _SPREAD),
    "deepspeed_plugins": ("DeepSpeed brings an optimizer, a clipping and checkpoints of its own", _SPREAD),
    "dynamo_backend": ("compilation is asked for in one place", "set torch_compile and torch_compile_backend"),
    "dynamo_plugin": ("compilation is asked for in one place", "set torch_compile, torch_compile_backend and torch_compile_mode"),
    "even_batches": ("it would repeat samples to fill the last batch; here every sample counts once", "leave it out"),
    "fsdp_plugin": (
        "Accelerate leaves it out on the CPU without a word, so that it cannot be compared with one process there",
        f"{_SPREAD} (dp_shard)",
    ),
    "gradient_accumulation_plugin": ("accumulation is asked for in one place", "set gradient_accumulation_steps in the arguments"),
    "log_with": ("trackers are asked for in one place", "set report_to"),
    "megatron_lm_plugin": ("Megatron-LM brings a model and a loop of its own", _SPREAD),
    "parallelism_config": ("models are split in one place", _SPREAD),
    "project_config": ("a run has one folder", "set output_dir and logging_dir"),
    "project_dir": ("a run has one folder", "set output_dir and logging_dir"),
    "rng_types": ("randomness follows from seed, and differs between processes where it must", "set seed"),
    "torch_tp_plugin": ("models are split in one place", f"{_SPREAD} (tensor_parallel_size)"),
    "use_seedable_sampler": (_OURS, "leave it out"),
}


@dataclass(frozen=True)
class Meaning:
    """What a plain argument may be.

    Attributes:
        fits: Whether a value can be had.
        wanted: Which ones can.
        hint: What to do instead of others.
    """

    fits: Callable[[Any], bool]
    wanted: str
    hint: str = ""


_PRECISIONS = ("no", "fp16", "bf16")

#: Arguments that have an effect, here or in Accelerate.
TAKEN: Mapping[str, Meaning] = {
    "cpu": Meaning(lambda value: isinstance(value, bool), "true or false"),
    "device_placement": Meaning(lambda value: value is True, "true", "the trainer puts model and batches on the device of this process"),
    "dispatch_batches": Meaning(lambda value: isinstance(value, bool), "true or false"),
    "gradient_accumulation_steps": Meaning(lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
    "kwargs_handlers": Meaning(lambda value: isinstance(value, list), "a list of accelerate's KwargsHandler objects"),
    "mixed_precision": Meaning(lambda value: value in _PRECISIONS, f"one of {', '.join(_PRECISIONS)}", "the trainer knows these alone"),
    "split_batches": Meaning(
        lambda value: value is False,
        "false",
        "per_device_train_batch_size is what each process takes: divide it by the number of processes instead",
    ),
    "step_scheduler_with_optimizer": Meaning(lambda value: value is True, "true", "the schedule takes one step with each optimizer step"),
}

#: Names that are known; all of the Accelerator's own are among them.
KNOWN = (*TAKEN, *REFUSED)


@dataclass
class AccelTrainingArguments(TrainingArguments):
    """:class:`TrainingArguments`, and what the ``Accelerator`` of an ``AccelTrainer`` is made with."""

    accelerator_args: dict[str, Any] | None = setting(None, "Arguments of accelerate.Accelerator, which the trainer makes itself.")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.accelerator_args or {}
        self.bf16 = self.bf16 or given.get("mixed_precision") == "bf16"
        self.fp16 = self.fp16 or given.get("mixed_precision") == "fp16"
        self.use_cpu = self.use_cpu or given.get("cpu") is True

    def problems(self) -> Iterable[Problem]:
        """Those of the arguments, and what cannot be had of an Accelerator."""
        yield from super().problems()
        yield from accelerator_problems(self)


def accelerator_problems(args: AccelTrainingArguments) -> Iterable[Problem]:
    """What is wrong with ``accelerator_args``; null stands for an argument that is not given."""
    for name, value in (args.accelerator_args or {}).items():
        path = f"accelerator_args.{name}"
        if name not in KNOWN:
            problem = unknown_key(name, KNOWN, owner="accelerate.Accelerator", given=args.accelerator_args or {})
            yield dataclasses.replace(problem, path=path)
        elif value is None:
            continue
        elif name in REFUSED:
            reason, hint = REFUSED[name]
            if not (name == "even_batches" and value is False) and not (name == "use_seedable_sampler" and value is True):
                yield Problem(f"cannot be had: {reason}", path=path, hint=hint)
        elif not TAKEN[name].fits(value):
            yield Problem(f"expected {TAKEN[name].wanted}, found {value!r}", path=path, hint=TAKEN[name].hint)
        else:
            yield from _contradictions(args, name, value, path)


def _contradictions(args: AccelTrainingArguments, name: str, value: Any, path: str) -> Iterable[Problem]:
    """What the arguments say in another place, in another way."""
    if name == "gradient_accumulation_steps" and value not in (1, args.gradient_accumulation_steps):
        ours = args.gradient_accumulation_steps
        yield Problem(
            f"is {value}, but the arguments accumulate {ours}", path=path, hint=f"set gradient_accumulation_steps to {value} instead"
        )
    if name == "mixed_precision":
        asked = precision_name(args)
        if asked not in ("no", value):
            yield Problem(f"is {value!r}, but the arguments ask for {asked}", path=path, hint="drop one of them")
    if name == "cpu" and not value and args.use_cpu:
        yield Problem("is false, but use_cpu is true", path=path, hint="drop one of them")


def precision_name(args: TrainingArguments) -> str:
    """The arguments' precision, as Accelerate calls it."""
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
