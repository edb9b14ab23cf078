"""What a run knows of itself (state) and what it is asked to do next (control)."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainerState:
    """Progress of a run. Saved in every checkpoint.

    Attributes:
        epoch: Epochs done, with the share of the running one.
        global_step: Optimizer steps done.
        max_steps: Optimizer steps of the whole run.
        logging_steps: Steps between log records.
        eval_steps: Steps between evaluations.
        save_steps: Steps between checkpoints.
        train_batch_size: Samples of one forward pass.
        num_train_epochs: Epochs of the whole run.
        log_history: Every log record, in order.
        is_local_process_zero: Whether this is the first process of its machine.
        is_world_process_zero: Whether this is the first process of all.
        num_input_tokens_seen: Input tokens processed, padding included.
        num_target_tokens_seen: Targets trained on, as the objective counts them.
        total_flos: Kept for callbacks of transformers; not counted.
        best_metric: Best value of the ranking metric so far.
        best_global_step: Step of that value.
        best_model_checkpoint: Checkpoint of that step.
        is_hyper_param_search: Kept for callbacks of transformers.
        trial_name: Likewise.
    """

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list)
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    num_input_tokens_seen: int = 0
    num_target_tokens_seen: int = 0
    total_flos: float = 0
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_hyper_param_search: bool = False
    trial_name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state as plain data; what belongs to the process is left out."""
        values = dataclasses.asdict(self)
        for name in ("is_local_process_zero", "is_world_process_zero"):
            del values[name]
        return values

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        """Write the state to a JSON file."""
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=2, sort_keys=True)

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> TrainerState:
        """Read what :meth:`save_to_json` wrote."""
        with open(json_path, encoding="utf-8") as file:
            return cls(**json.load(file))


@dataclass
class TrainerControl:
    """Switches that callbacks set and the loop acts on at the next boundary.

    Attributes:
        should_training_stop: Stop after this step.
        should_epoch_stop: Leave this epoch after this step and go on with the next.
        should_save: Save a checkpoint.
        should_evaluate: Evaluate.
        should_log: Write a log record.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False
