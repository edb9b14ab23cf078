"""Trackers of experiments in code."""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.settings.base import setting
from ironloom.settings.dream.base import BaseConfig


@dataclass(kw_only=True)
class LoggingParameters(BaseConfig):
    """Whether a run is tracked."""

    enabled: bool = setting(True, "Send the records of the run to the tracker.")


@dataclass(kw_only=True)
class WandBParameters(LoggingParameters):
    """Weights & Biases. The run is called as the configuration's ``experiment``, its group is ``group``."""

    project: str | None = setting(None, "Project; null: that of the configuration.")
    entity: str | None = setting(None, "User or team; null: the account's own.")
    tags: list[str] | None = setting(None, "Tags of the run.")
    notes: str | None = setting(None, "A description of the run.")
    log_model: bool = setting(False, "Keep every checkpoint with the run.")
    log_artifacts: bool = setting(False, "Keep run.yaml and the folder of logs with the run, at the end.")
    log_code: bool = setting(False, "Keep the source code with the run.")


WandbLoggingParameters = WandBParameters
