"""Log records with what the experiment is and when each was made."""

from __future__ import annotations

import datetime
import json
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.records import Record, RecordFile, kept_records, log_folder, plain
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments


class JsonLogger(TrainerCallback):
    """Writes ``trainer_logs.jsonl`` in ``logging_dir`` (default ``OUTPUT_DIR/logs``).

    The first line is ``{"experiment_info": {...}}``; each further one is a log record with its ``step``
    and its ``time`` (ISO 8601, UTC). Every line is whole after a kill. A run that goes on keeps the
    lines of the steps it does not repeat, with their times.

    Args:
        **experiment_info: Anything that describes the experiment.
    """

    def __init__(self, **experiment_info: Any):
        self._info = experiment_info
        self._file: RecordFile | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the file at the step the run starts from."""
        if not state.is_world_process_zero:
            return
        self._file = RecordFile(log_folder(args) / "trainer_logs.jsonl")
        held = self._file.read()
        times = {_content(record): record["time"] for record in held if "time" in record}
        kept = kept_records(state.log_history, held, state.global_step)
        timed = [{**record, "time": times[_content(record)]} if _content(record) in times else record for record in kept]
        self._file.replace([{"experiment_info": self._info}, *timed])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Append the newest record."""
        if self._file is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            self._file.append({**logs, "step": state.global_step, "time": now})


def _content(record: Record) -> str:
    """A record without its time, to be found again."""
    return json.dumps({key: value for key, value in plain(record).items() if key != "time"}, sort_keys=True, default=str)
