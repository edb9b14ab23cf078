"""Checkpoints by a metric: when to save, which to keep, which to go on from."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Literal

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.errors import ConfigError, Problem, ResourceError
from ironloom.settings.dream.checkpoint import CheckpointParameters
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")

#: What configurations put before the name of an evaluation's metric.
_PREFIX = re.compile(r"^(val|validation|eval)[_/]")


class CheckpointCallback(TrainerCallback):
    """Asks for checkpoints, besides those that the training arguments ask for, and keeps the best ones.

    It saves every so many steps, epochs or evaluations, if ``CheckpointParameters`` say so; otherwise
    whenever an evaluation is among the best. ``keep_top_k`` keeps that many of the best and the newest,
    instead of ``save_total_limit``; ``resume_mode``, ``resume_path`` and ``model_weights_only`` take the place
    of the training arguments for these, ``async_save`` adds to them, ``root_dir`` that of an ``output_dir`` which nobody set.

    Args:
        parameters: A ``CheckpointParameters``.
        monitor: Instead: a metric of the evaluations; ``val_loss`` is ``eval_loss``.
        mode: ``min`` or ``max``: which value of it is better; None: ``min``.

    Raises:
        ConfigError: If both are given, for values that cannot be, and when training begins if there are
            no evaluations to follow.
    """

    def __init__(
        self, parameters: CheckpointParameters | None = None, monitor: str | None = None, mode: Literal["min", "max"] | None = None
    ):
        if parameters is not None and (monitor is not None or mode is not None):
            raise ConfigError("give monitor and mode in the CheckpointParameters or beside them, not both")
        if parameters is not None and not isinstance(parameters, CheckpointParameters):
            raise ConfigError(f"parameters must be CheckpointParameters, found {type(parameters).__name__}")
        self._is_whole = parameters is not None
        self._parameters = parameters or CheckpointParameters(monitor=monitor, mode=mode)
        self._every_steps = self._parameters.checkpoint_every_n_steps
        self._every_epochs = self._parameters.checkpoint_every_n_epochs
        self._every_evaluations = self._parameters.checkpoint_every_n_val_epochs
        self._keep = max(0, self._parameters.keep_top_k or 0)
        self._metric: str | None = None
        self._grows = False
        self._values: dict[int, float] = {}
        self._evaluations = 0
        self._saved: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The value of the metric at each evaluation, and how many there were."""
        return {"values": [[step, value] for step, value in self._values.items()], "evaluations": self._evaluations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._values = {int(step): float(value) for step, value in state["values"]}
        self._evaluations = state["evaluations"]

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put into the training arguments what they can say themselves."""
        self._rank_by(args)
        if self._is_whole and self._parameters.enable:
            _set_output_dir(args, self._parameters.root_dir)
            args.resume_from_checkpoint = _resume_from(args, self._parameters)
            args.async_save |= self._parameters.async_save
            args.save_optimizer_state = args.save_scheduler_state = not self._parameters.model_weights_only

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See that there is something to follow."""
        self._rank_by(args)  # again, for a callback that was added later
        if state.global_step == 0:
            self._values, self._evaluations = {}, 0
        self._saved = None
        if self._metric is not None and args.eval_strategy == "no" and not args.eval_on_start:
            raise ConfigError(f"CheckpointCallback follows {self._metric}, but there are no evaluations: set eval_strategy")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every so many steps."""
        if self._due(self._every_steps, state.global_step):
            control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Rank this step; save it if it is time, or if it is the best and there is no other cadence."""
        if not any(key.startswith("eval_") for key in metrics):  # a test, say, has a prefix of its own
            return
        self._evaluations += 1
        if self._due(self._every_evaluations, self._evaluations):
            control.should_save = True
        if self._metric is None:
            return
        if self._metric not in metrics:
            known = ", ".join(sorted(metrics))
            raise ConfigError(f"CheckpointCallback: an evaluation gives no {self._metric!r}; it gives {known}")
        self._values[state.global_step] = metrics[self._metric]
        by_rank = self._every_steps is None and self._every_epochs is None and self._every_evaluations is None
        if by_rank and state.global_step in self._ranked(list(self._values))[: self._keep or 1]:
            control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save every so many epochs."""
        done = round(state.epoch)
        if self._saved != state.global_step and state.epoch == done and self._due(self._every_epochs, done):
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Delete what is neither new nor among the best."""
        self._saved = kwargs.get("step", state.global_step)
        if not self._keep or self._metric is None or not state.is_world_process_zero:
            return
        folder = _folder(args)
        best = self._ranked([checkpoint.step for checkpoint in folder.complete() if checkpoint.step in self._values])[: self._keep]
        try:
            folder.retain(1, protect=[folder.path(step) for step in best])
        except ResourceError as error:
            logger.warning("%s; training goes on", error)

    def _rank_by(self, args: TrainingArguments) -> None:
        if not self._parameters.enable:
            return
        metric, keep = self._parameters.monitor, self._parameters.keep_top_k
        if metric is not None:
            args.metric_for_best_model = _PREFIX.sub("", metric)
            args.greater_is_better = self._parameters.mode == "max"
            self._metric, self._grows = args.best_metric_name, args.best_metric_grows
        if keep is not None:
            # The best ones are kept here; without a metric there is no best, and the newest are kept.
            args.save_total_limit = keep if keep > 0 and metric is None else None

    def _due(self, every: int | None, count: int) -> bool:
        return self._parameters.enable and every is not None and count % every == 0

    def _ranked(self, steps: list[int]) -> list[int]:
        """Evaluated steps, the best first, of equal ones the oldest; values that are no numbers come last."""
        sign = -1.0 if self._grows else 1.0
        values = self._values
        return sorted(steps, key=lambda step: (values[step] != values[step], sign * values[step], step))


def _folder(args: TrainingArguments) -> CheckpointFolder:
    return CheckpointFolder(Path(args.output_dir, "checkpoints"))


def _set_output_dir(args: TrainingArguments, root_dir: Any) -> None:
    if root_dir == CheckpointParameters().root_dir:
        return
    if args.output_dir == TrainingArguments().output_dir:
        args.output_dir = root_dir
    elif not Path(args.output_dir).absolute().is_relative_to(Path(root_dir).absolute()):
        raise ConfigError(
            Problem(f"checkpoints are in the run's folder, and output_dir {args.output_dir} is not in {root_dir}", path="root_dir")
        )


def _resume_from(args: TrainingArguments, parameters: CheckpointParameters) -> Any:
    """What ``resume_from_checkpoint`` is for these parameters; with nothing there a run begins anew."""
    if parameters.resume_path is not None:
        return parameters.resume_path
    best = [checkpoint for checkpoint in _folder(args).complete() if checkpoint.info.get("best")]
    return str(best[-1].path) if parameters.resumes_best and best else True
