"""The training loop's settings in code. What is left out is as in the quickstart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import setting
from ironloom.settings.dream.base import BaseConfig

Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Rate = Annotated[FiniteFloat, Ge(0)]
Unit = Annotated[FiniteFloat, Ge(0), Lt(1)]


@dataclass(kw_only=True)
class TrainingParameters(BaseConfig):
    """How long to train, in which batches, when to validate, how fast to learn."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {"max_grad_norm": "gradient_clip_val"}

    n_epochs: Count | None = setting(None, "Passes over the training data; with train_steps_per_epoch: how often so many steps.")
    train_steps_per_epoch: Count | None = setting(
        None, "Optimizer steps that count as an epoch; null: a pass over the data, or 400 steps where n_epochs is null too."
    )
    train_batch_size: Count = setting(8, "Samples of one forward pass in training, on all devices together.")
    val_batch_size: Count | None = setting(
        None, "Samples of one forward pass in validation, on all devices together; null: train_batch_size."
    )
    gradient_accumulation_steps: Count = setting(1, "Forward passes of one optimizer step.")

    gradient_clip_val: Rate | None = setting(1.0, "Clip the gradient to this L2 norm; 0 or null: never. Its other name is max_grad_norm.")

    val_frequency: Rate | None = setting(
        None, "Epochs between two validations; 0: none; null: 1, or every 100 steps where no epoch is given."
    )
    val_every_n_steps: Count | None = setting(None, "The same in optimizer steps.")
    val_steps_per_epoch: Count | None = setting(None, "Batches of one validation at the most; null: 32 samples.")
    num_sanity_val_steps: Size = setting(0, "Validation batches that are tried before the first step.")

    learning_rate: Annotated[FiniteFloat, Gt(0)] = setting(2e-3, "Learning rate of AdamW at the end of the warm-up.")
    min_lr: Rate | None = setting(None, "Learning rate at the end; null: a tenth of learning_rate.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = setting("cosine", "How the learning rate falls.")
    warmup_steps: Size | None = setting(None, "Steps over which the learning rate rises; null: 50 where no epoch is given, else none.")
    weight_decay: Rate = setting(0.1, "Weight decay of matrices; norms, biases and embeddings have none.")
    adam_beta1: Unit = setting(0.9, "AdamW's decay of the first moment.")
    adam_beta2: Unit = setting(0.95, "AdamW's decay of the second moment.")
    adam_eps: Annotated[FiniteFloat, Gt(0)] = setting(1e-8, "AdamW's epsilon.")

    log_every_n_steps: Count = setting(20, "Optimizer steps between two log records.")
    num_workers: Size = setting(0, "Processes that read samples.")

    def problems(self) -> Iterable[Problem]:
        """What does not fit together."""
        if self.val_frequency is not None and self.val_every_n_steps is not None:
            yield Problem("val_frequency and val_every_n_steps say the same thing twice", "val_every_n_steps", hint="drop one")
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            yield Problem(f"{self.min_lr} is more than learning_rate {self.learning_rate}", "min_lr")
        if self.max_steps is not None and (self.warmup_steps or 0) > self.max_steps:
            message = f"the warm-up of {self.warmup_steps} steps is longer than the run of {self.max_steps}"
            yield Problem(message, "warmup_steps", hint=f"at most {self.max_steps}")

    @property
    def is_default_length(self) -> bool:
        """Whether nothing says how long to train."""
        return self.n_epochs is None and self.train_steps_per_epoch is None

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of an epoch where they do not depend on the data."""
        return 400 if self.is_default_length else self.train_steps_per_epoch

    @property
    def max_steps(self) -> int | None:
        """Optimizer steps of the run where they do not depend on the data."""
        return None if self.steps_per_epoch is None else self.steps_per_epoch * (self.n_epochs or 1)
