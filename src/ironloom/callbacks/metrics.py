"""The run's own record: one JSON line for every log record, each step once."""

from __future__ import annotations

from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.records import RecordFile, kept_records, log_folder
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments


class MetricsWriter(TrainerCallback):
    """Writes ``metrics.jsonl`` in ``logging_dir`` (default ``OUTPUT_DIR/logs``).

    A run that goes on from step N drops the lines after step N first, so that a step that is
    trained twice is recorded once. A disk that is full costs the record, not the run.
    """

    def __init__(self) -> None:
        self._file: RecordFile | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the file at the step the run starts from."""
        if state.is_world_process_zero:
            self._file = RecordFile(log_folder(args) / "metrics.jsonl")
            self._file.replace(kept_records(state.log_history, self._file.read(), state.global_step))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Append the newest record."""
        if self._file is not None:
            self._file.append({**logs, "step": state.global_step})
