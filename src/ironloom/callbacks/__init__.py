"""Events of a run and those who listen to them."""

from ironloom.callbacks.base import EVENTS, TrainerCallback
from ironloom.callbacks.handler import CallbackHandler
from ironloom.callbacks.metrics import MetricsWriter
from ironloom.callbacks.progress import ProgressCallback
from ironloom.callbacks.state import TrainerControl, TrainerState

__all__ = [
    "EVENTS",
    "CallbackHandler",
    "MetricsWriter",
    "ProgressCallback",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
]
