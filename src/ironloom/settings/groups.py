"""The groups of a grouped configuration, all but ``model``, ``data`` and ``optim``: keys, defaults, ranges. Knows no files.

A key whose feature does not exist yet is declared with its default and refused by name when it is
set to anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import Settings, setting
from ironloom.settings.data import DataFile, DataGroup, DatasetEntry
from ironloom.settings.model import ModelConfig
from ironloom.settings.optim import OptimGroup

__all__ = [
    "GROUPS",
    "PRESET",
    "DataFile",
    "DataGroup",
    "DatasetEntry",
    "InitGroup",
    "OperationGroup",
    "OptimGroup",
    "ParallelGroup",
    "TrainerGroup",
    "UtilsGroup",
]

PRESET = "preset"  # the key that names what a group, or a preset, builds on

Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Rate = Annotated[FiniteFloat, Ge(0)]
Cadence = Literal["log", "checkpoint"]


@dataclass
class TrainerGroup(Settings):
    """Batch sizes, intervals and the place of the run."""

    model_name: str = setting("model", "Name of the model and, without model_path, of its folder below output.")
    model_path: str = setting("", "Folder for checkpoints and the model; empty: output/MODEL_NAME.")
    micro_batch_size: Count | None = setting(2, "Sequences of one forward pass on each device; null: derived.")
    train_batch_size: Count | None = setting(None, "Sequences of one optimizer step on all devices; null: derived.")
    gradient_accumulation_steps: Count | None = setting(None, "Forward passes of one optimizer step on each device; null: derived.")
    tensor_model_parallel_size: Count = setting(1, "Processes that share each layer.")
    pipeline_model_parallel_size: Count = setting(1, "Processes that the layers are spread over, in stages.")
    save_checkpoint_steps: Count = setting(1000, "Optimizer steps between two checkpoints.")
    log_interval: Count = setting(20, "Optimizer steps between two log records.")
    grad_norm_log_interval: Cadence | None = setting(None, "Log the gradient norm with each log record or checkpoint.")
    param_norm_log_interval: Cadence | None = setting(None, "Log the parameter norm with each log record or checkpoint.")
    use_flash_attn: bool | Literal["flex"] = setting(
        True, "Fused attention kernels; false: PyTorch's plain one; flex: FlexAttention, in the built-in decoder."
    )
    vocab_padding_unit: Count = setting(128, "The embedding's rows are padded to a multiple of this.")
    num_workers: Size = setting(8, "Processes that read samples; a token store is always read in the training process, which is faster.")
    do_eval: bool = setting(False, "Evaluate while training.")
    eval_batch_size: Count | None = setting(None, "Sequences of one evaluation pass on each device; null: micro batch.")


@dataclass
class OperationGroup(Settings):
    """How long to train, when to evaluate, what to save."""

    train_steps: Count = setting(1000, "Optimizer steps in all.")
    eval_interval: Count = setting(100, "Optimizer steps between two evaluations, with trainer.do_eval.")
    eval_samples: Count = setting(100, "Sequences of one evaluation.")
    test_samples: Count = setting(100, "Sequences of the test set.")
    activation_recompute: bool = setting(False, "Recompute activations in the backward pass, which takes time and saves memory.")
    recompute_strategy: Literal["default", "optimized"] = setting(
        "default", "default: all of each layer; optimized: what is cheap to compute beside its matrix products."
    )
    no_save: bool = setting(False, "Save no checkpoints.")
    save_dist_ckpt: bool = setting(False, "Each of several processes writes its part of a checkpoint, not the first one all.")
    exit_interval: Count | None = setting(None, "Save and stop when the step number is a multiple of this.")

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        if self.recompute_strategy != "default" and not self.activation_recompute:
            yield Problem("has no effect without activation_recompute", path="recompute_strategy", hint="set activation_recompute: true")


@dataclass
class InitGroup(Settings):
    """How weights begin."""

    seed: Size = setting(1337, "Seed of everything random.")
    init_std: Rate = setting(0.006, "Standard deviation of initial weights.")
    xavier_init: bool = setting(False, "Scale initial weights by their width instead (Glorot and Bengio, 2010).")
    data_parallel_random_init: bool = setting(False, "Different weights on each replica: refused, as replicas are copies of one model.")

    def problems(self) -> Iterable[Problem]:
        """What is never right."""
        if self.data_parallel_random_init:
            message = "replicas start equal, whatever their number: their gradients are summed as those of one model"
            yield Problem(message, path="data_parallel_random_init", hint="leave the key out")


@dataclass
class ParallelGroup(Settings):
    """Processes. Their numbers come from the environment that torchrun sets."""

    rank: Annotated[int, Ge(-1)] = setting(-1, "Number of this process; -1: from the environment.")
    local_rank: Size = setting(0, "Number of this process on its machine; from the environment.")
    world_size: Count = setting(1, "Number of processes; from the environment.")
    dist_backend: Literal["nccl", "gloo"] = setting("nccl", "How processes talk; nccl means gloo where there is no CUDA.")
    timeout_minute: Annotated[FiniteFloat, Gt(0)] = setting(10.0, "Minutes of patience with a silent process.")
    use_fsdp: bool = setting(False, "Share weights, gradients and the optimizer's state among processes (FSDP).")
    fsdp_offload_params: bool = setting(False, "Keep shards in host memory.")
    fsdp_mixed_precision: Literal["mixed", "fp16", "bf16", "fp32"] = setting(
        "mixed", "mixed: model.precision, gradients summed in float32; else the type of both, in the place of model.precision."
    )
    fsdp_sharding_strategy: Literal["full", "hybrid", "no_shard"] = setting(
        "full", "full: over all processes; hybrid: within a machine, a copy on each; no_shard: a copy in every process."
    )
    fsdp_state_dict_type: Literal["full", "local", "sharded"] = setting(
        "full", "full: the first process writes a checkpoint; sharded: each writes its part. Every tensor is stored whole."
    )

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        for field in dataclasses.fields(self):
            if field.name.startswith("fsdp_") and getattr(self, field.name) != field.default and not self.use_fsdp:
                yield Problem("has no effect without use_fsdp", path=field.name, hint="set use_fsdp: true")
        if self.fsdp_offload_params and self.fsdp_sharding_strategy == "no_shard":
            yield Problem("there are no shards with no_shard", path="fsdp_offload_params", hint="choose full or hybrid, or leave it out")


@dataclass
class UtilsGroup(Settings):
    """Logging and diagnosis."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting("INFO", "Least level of messages shown.")
    tensorboard_dir: str | None = setting(None, "Write records for TensorBoard into this folder.")
    mlflow_tracking_uri: str | None = setting(None, "Record the run in MLflow, at this address or in this folder.")
    mlflow_experiment_name: str | None = setting(None, "Record the run in MLflow, in this experiment.")
    profile_nsys: bool = setting(False, "Mark steps and operations for Nsight Systems; needs a CUDA device.")
    profile_torch: bool = setting(False, "Profile steps with PyTorch's profiler.")
    profile_step_start: Count = setting(10, "First step of the profile.")
    profile_step_end: Count = setting(12, "Last step of the profile.")
    profile_ranks: list[Size] = setting(default_factory=lambda: [0], doc="Processes to profile.")
    deterministic: bool = setting(False, "Refuse operations whose result may differ from run to run.")
    report_memory_usage: bool = setting(True, "Report the peak memory at the end.")

    def problems(self) -> Iterable[Problem]:
        """What is wrong although every value is right alone."""
        if not (self.profile_torch or self.profile_nsys):
            for key, default in {"profile_step_start": 10, "profile_step_end": 12, "profile_ranks": [0]}.items():
                if getattr(self, key) != default:
                    yield Problem("has no effect without a profile", path=key, hint="set profile_torch or profile_nsys")
        elif self.profile_step_end < self.profile_step_start:
            yield Problem(f"{self.profile_step_end} is before profile_step_start {self.profile_step_start}", path="profile_step_end")
        if not self.profile_ranks:
            yield Problem("expected at least one process", path="profile_ranks")


GROUPS: dict[str, type[Settings]] = {
    "model": ModelConfig,
    "init": InitGroup,
    "optim": OptimGroup,
    "data": DataGroup,
    "parallel": ParallelGroup,
    "trainer": TrainerGroup,
    "operation": OperationGroup,
    "utils": UtilsGroup,
}
