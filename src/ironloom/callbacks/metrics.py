"""The run's own record: one JSON line for every log record, each step once."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")


class MetricsWriter(TrainerCallback):
    """Writes ``metrics.jsonl`` in ``logging_dir`` (default ``OUTPUT_DIR/logs``).

    A run that goes on from step N drops the lines after step N first, so that a step that is
    trained twice is recorded once. A disk that is full costs the record, not the run.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the file at the step the run starts from."""
        if not state.is_world_process_zero:
            return
        self._path = Path(args.logging_dir or Path(args.output_dir, "logs"), "metrics.jsonl")
        self._write("w", [record for record in state.log_history if record["step"] <= state.global_step])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Append the newest record."""
        self._write("a", [{**logs, "step": state.global_step}])

    def _write(self, mode: str, records: list[dict[str, Any]]) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(_plain(record), default=str) + "\n" for record in records)
        except OSError as error:
            logger.warning("%s could not be written (%s); no further records are kept there", self._path, error.strerror)
            self._path = None


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinities: such values are written as text, as are values of other kinds than JSON's."""
    return {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
