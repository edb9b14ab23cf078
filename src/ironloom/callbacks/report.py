"""The trackers that ``report_to`` names."""

from __future__ import annotations

from ironloom.callbacks.mlflow_logger import MLflowLogger
from ironloom.callbacks.records import log_folder
from ironloom.callbacks.tb_logger import TBLogger
from ironloom.callbacks.tracker import Tracker
from ironloom.callbacks.wandb_logger import LoggerCallback
from ironloom.settings.training import TrainingArguments


def trackers(args: TrainingArguments) -> list[Tracker]:
    """One for each name, in order; each takes what it is not told from its own environment, as transformers' do.

    Raises:
        ConfigError: If the package of one is not installed.
    """
    wanted = [args.report_to] if isinstance(args.report_to, str) else args.report_to
    return [_new(name, args) for name in dict.fromkeys(wanted) if name != "none"]


def _new(name: str, args: TrainingArguments) -> Tracker:
    if name == "tensorboard":
        return TBLogger(log_folder(args))
    return LoggerCallback() if name == "wandb" else MLflowLogger()
