"""What the experiment trackers have in common: when they open, what they are given, when they close."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.records import scalars
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.config.extras import absent
from ironloom.errors import ConfigError
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")


def require(package: str, who: str) -> None:
    """Say at construction, before anything is trained, that a package is missing; it is not imported.

    Raises:
        ConfigError: If it is not installed.
    """
    problems = list(absent(package, who))
    if problems:
        raise ConfigError(problems)


class Tracker(TrainerCallback):
    """Base of trackers. Only the first process of all tracks.

    It opens when training begins, takes every log record and closes when training ends, in
    whichever way. A record that comes later, such as that of a test, opens it again. What it cannot
    write while training costs the further records, with one warning, not the run.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._failed = False
        self._training = False
        #: The last step of each tag: records of one step repeat what belongs to the step, such as the epoch.
        self._recorded_to: dict[str, int] = {}

    @abstractmethod
    def _open(self, args: TrainingArguments, state: TrainerState, begins: bool, **kwargs: Any) -> None:
        """Get ready to write.

        Args:
            args: Of the run.
            state: Where it is: at step 0, or where a checkpoint takes it up.
            begins: Whether training begins or goes on now; False for a record outside training.
            **kwargs: What every handler gets.
        """

    @abstractmethod
    def _write(self, values: dict[str, float], state: TrainerState) -> None:
        """Record values of ``state.global_step``."""

    @abstractmethod
    def _close(self, failed: bool) -> None:
        """Have everything written and give back what is held."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open."""
        if state.is_world_process_zero:
            self._finish(failed=False)  # what a record after an earlier training has left open
            self._recorded_to = {}
            self._open(args, state, begins=True, **kwargs)
            self._is_open = self._training = True
            self._failed = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Record the numbers of a log record."""
        if not state.is_world_process_zero or self._failed:
            return
        self._guarded("a record", lambda: self._record(args, state, logs, kwargs))
        if not self._training:
            self._finish(failed=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close."""
        self._training = False
        self._finish(failed=False)

    def close(self) -> None:
        """Training ended by an error."""
        self._training = False
        self._finish(failed=True)

    def _record(self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any], kwargs: dict[str, Any]) -> None:
        if not self._is_open:
            self._open(args, state, begins=False, **kwargs)
            self._is_open = True
        step = state.global_step
        new = {tag: value for tag, value in scalars(logs).items() if step > self._recorded_to.get(tag, -1)}
        if new:
            self._write(new, state)
            self._recorded_to.update(dict.fromkeys(new, step))

    def _finish(self, failed: bool) -> None:
        if self._is_open:
            self._is_open = False
            self._guarded("its end", lambda: self._close(failed))

    def _guarded(self, what: str, action: Any) -> None:
        """Do something that may fail in as many ways as there are networks and disks."""
        try:
            action()
        except Exception as error:
            self._failed = True
            logger.warning("%s could not record %s (%s); it records nothing further, training goes on", type(self).__name__, what, error)
