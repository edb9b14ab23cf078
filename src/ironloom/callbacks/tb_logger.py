"""TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ironloom.callbacks.state import TrainerState
from ironloom.callbacks.tracker import Tracker, require
from ironloom.errors import ConfigError
from ironloom.settings.training import TrainingArguments


class TBLogger(Tracker):
    """Writes every number of the log records, and texts that describe the experiment, for TensorBoard.

    Tags are ``train/loss``, ``train/learning_rate``, ``eval/loss`` and so on. A run that goes on from step
    N tells TensorBoard to forget what was written after step N.

    Args:
        summary_writer: A ``torch.utils.tensorboard.SummaryWriter``, or the folder for one; with a folder
            only the first process makes files.
        experiment_info: Texts that describe the experiment, by name.
        **info: Further ones.

    Raises:
        ConfigError: If the package tensorboard is missing, or ``summary_writer`` is neither.
    """

    def __init__(self, summary_writer: Any, experiment_info: Mapping[str, Any] | None = None, **info: Any):
        super().__init__()
        require("tensorboard", "TBLogger")
        self._folder = os.fspath(summary_writer) if isinstance(summary_writer, (str, os.PathLike)) else None
        if self._folder is None and not callable(getattr(summary_writer, "add_scalar", None)):
            raise ConfigError(f"summary_writer must be a SummaryWriter or a folder, found {type(summary_writer).__name__}")
        self._writer: Any = summary_writer
        self._info = {**(experiment_info or {}), **info}

    def _open(self, args: TrainingArguments, state: TrainerState, begins: bool, **kwargs: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        again = begins and state.global_step > 0
        if self._folder is not None:
            # A fresh run in the folder of an earlier one takes its place.
            purge_step = (state.global_step + 1 if again else 0) if begins else None
            self._writer = SummaryWriter(self._folder, purge_step=purge_step)
        elif again and isinstance(self._writer, SummaryWriter):
            _forget_from(self._writer, state.global_step + 1)
        if begins and not again:
            for name, value in self._info.items():
                self._writer.add_text(f"experiment/{name}", str(value), 0)

    def _write(self, values: dict[str, float], state: TrainerState) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, state.global_step)
        self._writer.flush()  # else a kill loses up to two minutes

    def _close(self, failed: bool) -> None:
        self._writer.close()


def _forget_from(writer: Any, step: int) -> None:
    """Tell the readers of the files that what stands at these steps is void: the run was set back."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    files = writer._get_file_writer()  # opens anew what an earlier run has closed
    files.add_event(Event(step=step, file_version="brain.Event:2"))
    files.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
