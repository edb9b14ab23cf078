"""Files of records: one JSON object a line, whole lines only, whatever kills the process.

Also what trackers need of a log record. Knows nothing of events.
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from ironloom.atomic import write_bytes_atomic
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")

Record = dict[str, Any]


class RecordFile:
    """A file of JSON lines. A disk that does not take it costs the records, with one warning, not the run.

    Args:
        path: Its folder is made when something is written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._failed = False

    def read(self) -> list[Record]:
        """The records of the file, none if there is no file; lines that a kill left incomplete do not count."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._give_up(error)
            return []
        return [record for line in lines if (record := _parsed(line)) is not None]

    def replace(self, records: list[Record]) -> None:
        """Let the file hold these records and no others; until that is done it holds what it held."""
        if self._failed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(self.path, b"".join(map(_line, records)))
        except OSError as error:
            self._give_up(error)

    def append(self, record: Record) -> None:
        """Add a record, in one write."""
        if self._failed:
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, _line(record))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        logger.warning("%s could not be written (%s); no further records are kept there", self.path, error.strerror)


def log_folder(args: TrainingArguments) -> Path:
    """Where a run keeps its records: ``logging_dir``, or ``OUTPUT_DIR/logs``."""
    return Path(args.logging_dir or Path(args.output_dir, "logs"))


def kept_records(history: list[Record], held: list[Record], step: int) -> list[Record]:
    """The records of a run that goes on from ``step``.

    Args:
        history: The run's records as its checkpoint has them.
        held: The records that the file holds, each with its step. The summary of a run that ended at ``step`` was logged
            after its last checkpoint; nothing logs it again, so it stays.
        step: The step of the checkpoint; 0 for a run that begins.
    """
    known = [record for record in history if record["step"] <= step]
    return known + [record for record in held if record.get("step") == step and "train_runtime" in record and step]


def plain(value: Any) -> Any:
    """A value that JSON can hold: it knows no infinities, so these are written as text."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def scalars(logs: Record) -> dict[str, float]:
    """The numbers of a log record as trackers group them: ``train/loss``, ``eval/loss``, ``test/loss``."""
    found = {}
    for key, value in logs.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            part, _, rest = key.partition("_")
            found[f"{part}/{rest}" if part in ("eval", "test") and rest else f"train/{key}"] = float(value)
    return found


def _line(record: Record) -> bytes:
    return (json.dumps(plain(record), default=str) + "\n").encode()


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
