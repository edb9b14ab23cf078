"""Checkpoints of a run in code: where, how often, how many, and what to go on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from ironloom.errors import Problem
from ironloom.settings.base import setting
from ironloom.settings.dream.base import BaseConfig

Count = Annotated[int, Ge(1)]


@dataclass(kw_only=True)
class CheckpointParameters(BaseConfig):
    """Checkpoints. The folder of a run is ``root_dir/project/group/experiment``."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {"checkpoint_every_n_train_epochs": "checkpoint_every_n_epochs"}

    enable: bool = setting(True, "Save checkpoints.")
    root_dir: str | Path = setting("output", "Folder of all runs.")

    monitor: str | None = setting(None, "Metric of the validation that ranks checkpoints; null: val_loss if the mode is given, else none.")
    mode: Literal["min", "max"] | None = setting(None, "Whether less or more of it is better; null: min, where there is a metric.")

    checkpoint_every_n_epochs: Count | None = setting(None, "Epochs between two checkpoints; null: 1 if nothing else is given.")
    checkpoint_every_n_val_epochs: Count | None = setting(None, "Validations between two checkpoints.")
    checkpoint_every_n_steps: Count | None = setting(None, "Optimizer steps between two checkpoints.")

    keep_top_k: Annotated[int, Ge(-1)] | None = setting(
        None, "Checkpoints to keep: the best ones and the newest, without a metric the newest ones; 0 or -1: all; null: 2."
    )
    async_save: bool = setting(False, "Copy what a checkpoint holds and let a thread write it while training goes on.")
    save_last: bool = setting(True, "Save at the end of training too.", planned="the last step is always saved")
    model_weights_only: bool = setting(False, "Leave the states of optimizer and schedule out.")
    strict_load: bool = setting(True, "Refuse a checkpoint that does not fit the model.", planned="a checkpoint fits or is refused")
    pin_memory: bool = setting(False, "Copy through page-locked memory.", planned="async_save copies into ordinary memory")

    resume_mode: Literal["latest", "last", "best", "min", "max"] = setting(
        "latest", "Go on from the latest checkpoint (also: last) or from the best one (also: min, max, which say what is best)."
    )
    resume_path: str | Path | None = setting(None, "Go on from this checkpoint instead.")
    resume_data: bool = setting(True, "Go on at the same place of the data.", planned="the place belongs to the checkpoint")

    def problems(self) -> Iterable[Problem]:
        """What does not fit together."""
        every = ("checkpoint_every_n_epochs", "checkpoint_every_n_val_epochs", "checkpoint_every_n_steps")
        given = [name for name in every if getattr(self, name) is not None]
        if len(given) > 1:
            yield Problem(f"{' and '.join(given)} exclude each other", given[1], hint="keep one of them")
        if self.resume_mode in ("min", "max") and self.mode not in (None, self.resume_mode):
            yield Problem(f"{self.resume_mode!r} contradicts mode {self.mode!r}", "resume_mode", hint="write resume_mode='best'")
        if self.monitor is not None and self.monitor.startswith("train"):
            message = f"{self.monitor!r} is not a metric of the validation, which ranks checkpoints"
            yield Problem(message, "monitor", hint="for example val_loss")

    def complete(self) -> None:
        """Look at the rules, and settle what ranks checkpoints."""
        super().complete()
        if self.monitor is None and (self.mode is not None or self.resumes_best):
            object.__setattr__(self, "monitor", "val_loss")
        if self.monitor is not None and self.mode is None:
            object.__setattr__(self, "mode", "max" if self.resume_mode == "max" else "min")

    @property
    def resumes_best(self) -> bool:
        """Whether to go on from the best checkpoint rather than the latest."""
        return self.resume_mode in ("best", "min", "max")
