"""The name under which the specification has :mod:`ironloom.trainer.base_trainer`."""

from ironloom.trainer.base_trainer import BaseTrainer

__all__ = ["BaseTrainer"]
