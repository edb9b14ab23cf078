"""Events of a run and those who listen to them. Importing this imports no torch, and no tracker's package."""

from ironloom.callbacks.base import EVENTS, TrainerCallback
from ironloom.callbacks.checkpoint_callback import CheckpointCallback
from ironloom.callbacks.collection import CallbackCollection
from ironloom.callbacks.handler import CallbackHandler
from ironloom.callbacks.json_logger import JsonLogger
from ironloom.callbacks.metrics import MetricsWriter
from ironloom.callbacks.mlflow_logger import MLflowLogger
from ironloom.callbacks.profile import NsightCallback, ProfileCallback
from ironloom.callbacks.progress import ProgressCallback
from ironloom.callbacks.sanity import SanityCheck
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.callbacks.tb_logger import TBLogger
from ironloom.callbacks.textgen_callback import TextgenCallback
from ironloom.callbacks.wandb_logger import LoggerCallback

__all__ = [
    "EVENTS",
    "CallbackCollection",
    "CallbackHandler",
    "CheckpointCallback",
    "JsonLogger",
    "LoggerCallback",
    "MLflowLogger",
    "MetricsWriter",
    "NsightCallback",
    "ProfileCallback",
    "ProgressCallback",
    "SanityCheck",
    "TBLogger",
    "TextgenCallback",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
]
