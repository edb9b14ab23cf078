"""Arguments of the trainers, under the names of the specification and of ``transformers``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from ironloom.errors import ConfigError, Problem
from ironloom.settings.base import Settings, setting

Strategy = Literal["no", "steps", "epoch"]
Cadence = Literal["log", "checkpoint"]
Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Unit = Annotated[float, Ge(0), Lt(1)]


Report = Literal["none", "tensorboard", "wandb", "mlflow"]


@dataclass
class TrainingArguments(Settings):
    """How to train: schedule, optimisation, logging, evaluation, saving, data loading, numerics.

    Raises:
        ConfigError: (a ``ValueError``) naming every value that is wrong or does not fit the others.
    """

    output_dir: str | os.PathLike[str] = setting("tmp_trainer", "Folder of the run: the final model and its checkpoints.")
    logging_dir: str | os.PathLike[str] | None = setting(
        None, "Folder of metrics.jsonl, one line for every log record; null: OUTPUT_DIR/logs."
    )

    num_train_epochs: Annotated[float, Gt(0)] = setting(1, "Passes over the training data; a fraction ends within one.")
    max_steps: Annotated[int, Ge(-1)] = setting(-1, "Optimizer steps in all; -1: as many as num_train_epochs makes.")
    per_device_train_batch_size: Count = setting(16, "Samples of one forward pass in training, on each device.")
    per_device_eval_batch_size: Count = setting(16, "Samples of one forward pass in evaluation, on each device.")
    gradient_accumulation_steps: Count = setting(1, "Forward passes that make one optimizer step.")
    seed: int = setting(42, "Seed of initialisation, dropout and everything random but the order of the data.")
    data_seed: int | None = setting(None, "Seed of the order of the data and of randomness in samples; null: seed.")

    logging_steps: Count = setting(500, "Optimizer steps between two log records, with strategy 'steps'.")
    logging_strategy: Strategy = setting("steps", "When to log: no, steps, epoch.")
    logging_first_step: bool = setting(False, "Log the first step too.")
    include_num_input_tokens_seen: bool | Literal["no", "all", "non_padding"] = setting(
        False, "Log the number of input tokens seen; 'non_padding' counts what attention_mask keeps."
    )
    eval_steps: Count = setting(500, "Optimizer steps between two evaluations, with strategy 'steps'.")
    eval_strategy: Strategy = setting("no", "When to evaluate: no, steps, epoch.")
    eval_on_start: bool = setting(False, "Evaluate before the first step.")

    save_steps: Count = setting(500, "Optimizer steps between two checkpoints, with strategy 'steps'.")
    save_strategy: Strategy = setting("steps", "When to save a checkpoint: no, steps, epoch.")
    save_total_limit: Count | None = setting(2, "Complete checkpoints to keep, the best one besides; null: all.")
    async_save: bool = setting(False, "Copy what a checkpoint holds and let a thread write it while training goes on.")
    save_dist_ckpt: bool = setting(
        True, "Each of several processes writes its part of a checkpoint; false: the first writes all, if fsdp_state_dict_type is full."
    )
    fsdp_state_dict_type: Literal["full", "local", "sharded"] = setting(
        "full", "Who writes where save_dist_ckpt is false: full: the first process; sharded: each its part. Every tensor is stored whole."
    )
    resume_from_checkpoint: bool | str | os.PathLike[str] = setting(
        False, "true: go on from the newest good checkpoint of output_dir; a path: from that one."
    )
    save_optimizer_state: bool = setting(False, "Put the optimizer's state into checkpoints; needed for an exact resume.")
    save_scheduler_state: bool = setting(False, "Put the scheduler's state into checkpoints; needed for an exact resume.")
    restore_optimizer_state: bool = setting(True, "Take the optimizer's state from the checkpoint on resume.")
    restore_scheduler_state: bool = setting(True, "Take the scheduler's state from the checkpoint on resume.")
    load_best_model_at_end: bool = setting(False, "After training, load the weights of the best checkpoint.")
    metric_for_best_model: str | None = setting(None, "Metric that ranks checkpoints; null: loss, if anything ranks them.")
    greater_is_better: bool | None = setting(None, "Whether more of that metric is better; null: not for losses.")

    torch_compile: bool = setting(False, "Compile the model with torch.compile.")
    torch_compile_backend: str = setting("inductor", "Backend of torch.compile.")
    torch_compile_mode: str | None = setting(None, "Mode of torch.compile.")

    dataloader_num_workers: Size = setting(
        0, "Processes that read samples; 0: the training process, where a token store is read in any case."
    )
    dataloader_pin_memory: bool = setting(True, "Page-locked batches, where there is an accelerator.")
    dataloader_drop_last: bool = setting(False, "Leave out the last batch of an epoch if it is not full.")
    dataloader_prefetch_factor: Count | None = setting(None, "Batches that each worker reads ahead.")
    dataloader_persistent_workers: bool = setting(False, "Keep the workers from one epoch to the next.")
    remove_unused_columns: bool = setting(True, "Drop the columns of the dataset that the model's forward does not take.")
    label_names: list[str] | None = setting(None, "Keys of a batch that hold labels; null: labels.")

    learning_rate: Annotated[float, Ge(0)] = setting(5e-5, "Learning rate of AdamW, at the schedule's top.")
    weight_decay: Annotated[float, Ge(0)] = setting(0.0, "Weight decay of AdamW; norms and biases are left out.")
    adam_beta1: Unit = setting(0.9, "AdamW's decay of the first moment.")
    adam_beta2: Unit = setting(0.999, "AdamW's decay of the second moment.")
    adam_epsilon: Annotated[float, Gt(0)] = setting(1e-8, "AdamW's epsilon.")
    max_grad_norm: Annotated[float, Ge(0)] | None = setting(1.0, "Clip the gradient to this L2 norm; 0 or null: never.")
    warmup_steps: Size = setting(0, "Steps over which the learning rate rises.")
    warmup_ratio: Annotated[float, Ge(0), Le(1)] = setting(0.0, "The same as a share of all steps.")
    lr_scheduler_type: str = setting("linear", "Schedule after the warm-up, by its name in transformers.")
    lr_scheduler_kwargs: dict[str, Any] | None = setting(None, "Further arguments of the schedule.")

    bf16: bool = setting(False, "bfloat16 arithmetic over float32 weights.")
    fp16: bool = setting(False, "float16 arithmetic over float32 weights, with a loss scaler.")
    use_cpu: bool = setting(False, "Train on the CPU even where there is an accelerator.")
    deterministic: bool = setting(False, "Refuse operations whose result may differ from run to run.")
    attention_kernel: Literal["auto", "math", "flex"] = setting(
        "auto", "Kernel of scaled_dot_product_attention; math: the plain one; flex: FlexAttention, in the built-in decoder."
    )
    nonfinite_policy: Literal["stop", "skip"] = setting("stop", "On a loss that is not finite: stop, or skip that step.")

    grad_norm_log_interval: Cadence | None = setting(None, "Log the gradient norm with each log record or checkpoint.")
    param_norm_log_interval: Cadence | None = setting(None, "Log the parameter norm with each log record or checkpoint.")
    report_memory: bool = setting(False, "Report the peak memory at the end.")
    exit_steps: Count | None = setting(None, "Save and stop when the step number is a multiple of this.")
    disable_tqdm: bool = setting(False, "No progress bar and no log lines.")
    report_to: Report | list[Report] = setting("none", "Trackers to log to: tensorboard (in logging_dir), wandb, mlflow; none: none.")

    def problems(self) -> Iterable[Problem]:
        """Combinations that cannot work, although every value is right alone."""
        if self.max_steps == 0:
            yield Problem("0 steps train nothing", path="max_steps", hint="-1 trains num_train_epochs epochs")
        if self.bf16 and self.fp16:
            yield Problem("bf16 and fp16 exclude each other", path="fp16", hint="drop one of them")
        if self.warmup_steps and self.warmup_ratio:
            yield Problem("warmup_steps and warmup_ratio say the same thing twice", path="warmup_ratio", hint="drop one")
        if 0 < self.max_steps < self.warmup_steps:
            yield Problem(f"the warm-up of {self.warmup_steps} steps is longer than the run of {self.max_steps}", path="warmup_steps")
        if self.load_best_model_at_end and self.eval_strategy == "no":
            yield Problem("needs evaluations to find the best model", path="load_best_model_at_end", hint="set eval_strategy")
        if self.load_best_model_at_end and self.save_strategy == "no":
            yield Problem("needs checkpoints to load the best one", path="load_best_model_at_end", hint="set save_strategy")
        if self.fsdp_state_dict_type == "local":
            message = "'local' has no place: parts of tensors could be read neither by others nor by other numbers of processes"
            yield Problem(message, path="fsdp_state_dict_type", hint="'sharded': each process writes a share of the whole tensors")
        if self.dataloader_num_workers == 0:
            for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
                if getattr(self, name):
                    yield Problem("has no effect without workers", path=name, hint="set dataloader_num_workers")

    @property
    def train_batch_size(self) -> int:
        """Samples of one forward pass in training in this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Samples of one forward pass in evaluation in this process."""
        return self.per_device_eval_batch_size

    @property
    def all_write(self) -> bool:
        """Whether each of several processes writes its part of a checkpoint."""
        return self.save_dist_ckpt or self.fsdp_state_dict_type == "sharded"

    @property
    def best_metric_name(self) -> str:
        """Key of the ranking metric in the results of an evaluation."""
        name = self.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def best_metric_grows(self) -> bool:
        """Whether a greater value of the ranking metric is better."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.best_metric_name.endswith(("loss", "perplexity"))

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Warm-up in optimizer steps, from whichever of the two settings is given."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * num_training_steps)


_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


def arguments_of(kind: type[_Arguments], given: dict[str, Any] | TrainingArguments | None) -> _Arguments:
    """The arguments of a trainer, from what it was given: a dict of some of them, none, or themselves.

    Args:
        kind: The class of arguments that the trainer takes.
        given: What the user gave.

    Raises:
        ConfigError: For what is neither, or is wrong.
    """
    if given is None:
        return kind()
    if isinstance(given, dict):
        return kind.from_mapping(given)
    if not isinstance(given, kind):
        raise ConfigError(f"args must be ironloom.{kind.__name__} or a dict, not {type(given).__module__}.{type(given).__name__}")
    return given
