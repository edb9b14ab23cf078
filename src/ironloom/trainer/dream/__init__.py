"""A trainer to subclass: :class:`ironloom.trainer.dream.trainer.DreamTrainer`. Its configuration is ``ironloom.settings.dream``."""

from ironloom.trainer.dream.trainer import DreamTrainer

__all__ = ["DreamTrainer"]
