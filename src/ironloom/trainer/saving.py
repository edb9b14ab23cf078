"""Saving the checkpoints of a run: at once or in the background, with what follows from success or failure.

A checkpoint in the background is acknowledged at a boundary of the loop: only then ``on_save`` fires and a failure is told.
Every process of a run calls each method at the same places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironloom.checkpoint.background import BackgroundSaves
from ironloom.checkpoint.failures import SaveFailed
from ironloom.checkpoint.shared_folder import SharedFolder
from ironloom.errors import ResourceError
from ironloom.weights.peers import new_peers

if TYPE_CHECKING:
    from ironloom.trainer.base_trainer import BaseTrainer


class Saving:
    """Saves for one trainer; at most one checkpoint is under way.

    Args:
        trainer: Owner of what is saved, of the folder and of the events.
    """

    def __init__(self, trainer: BaseTrainer):
        self.trainer = trainer
        self._background: BackgroundSaves | None = None
        self._best_before: str | None = None

    def save(self, at_once: bool = False) -> str | None:
        """Save a checkpoint, in the background with ``async_save``; a failure is a warning and costs only that checkpoint.

        Args:
            at_once: In the foreground in any case.

        Returns:
            The checkpoint's path if it is complete.
        """
        self.settle()
        step, best_before = self.trainer.state.global_step, self.trainer.best_checkpoint_before
        try:
            if self.trainer.args.async_save and not at_once:
                self._begin(step)
                return None
            path = self.trainer._save_checkpoint()
        except SaveFailed as error:
            self._lost(step, error, best_before)
            return None
        except ResourceError as error:  # of retention: the checkpoint is there
            self.trainer.warn(f"{error}; training goes on")
            path = str(self.trainer.checkpoints.path(step))
        self._saved(step, path)
        return path

    def is_writing(self) -> bool:
        """Whether a checkpoint is being written in the background, as far as this process is concerned."""
        return self._background is not None and self._background.is_writing()

    def settle(self) -> None:
        """Wait for the checkpoint in the background, if there is one, and acknowledge it or tell why it is lost.

        Raises:
            Exception: What ended the save, if it was no matter of the disk.
        """
        outcome = None if self._background is None else self._background.wait()
        if outcome is None:
            return
        if isinstance(outcome.error, SaveFailed):
            self._lost(outcome.step, outcome.error, self._best_before)
            return
        if isinstance(outcome.error, ResourceError) and outcome.path is not None:
            self.trainer.warn(f"{outcome.error}; training goes on")
        elif outcome.error is not None:
            raise outcome.error
        self._saved(outcome.step, str(outcome.path))

    def leave(self) -> None:
        """Wait for the checkpoint in the background, and no more: training has ended by an error, maybe in this process only."""
        outcome = None if self._background is None else self._background.wait()
        if outcome is not None and outcome.error is not None:
            self.trainer.warn(str(outcome.error))

    def retention(self) -> Callable[[], list[Path]]:
        """What deletes checkpoints beyond ``save_total_limit`` after this step's was written, whatever is best by then."""
        trainer = self.trainer
        best = trainer.state.best_model_checkpoint
        folder, limit, protected = trainer.checkpoints, trainer.args.save_total_limit, [Path(best)] if best else []
        return lambda: folder.retain(limit, protect=protected)

    def info(self) -> dict[str, Any]:
        """What is to be known of this step's checkpoint without opening its files."""
        state = self.trainer.state
        return {"epoch": state.epoch, "best": state.best_global_step == state.global_step}

    def _begin(self, step: int) -> None:
        trainer, team = self.trainer, self.trainer.team
        if self._background is None:
            self._background = BackgroundSaves(SharedFolder(trainer.checkpoints, team.peers), new_peers("saving in the background"))
        saves, snapshot, self._best_before = self._background, trainer._snapshot(), trainer.best_checkpoint_before
        saves.folder = SharedFolder(trainer.checkpoints, team.peers)
        saves.start(step, lambda: snapshot.parts(team.peers, hold=True), self.info(), snapshot.extras, self.retention())

    def _saved(self, step: int, path: str) -> None:
        self.trainer.emit("on_save", checkpoint=path, step=step)

    def _lost(self, step: int, error: SaveFailed, best_before: str | None) -> None:
        """Go on without a checkpoint; if it was to be the best one, that is the one before."""
        trainer = self.trainer
        trainer.warn(f"{error}; training goes on")
        path = str(trainer.checkpoints.path(step))
        if path not in (trainer.state.best_model_checkpoint, trainer.best_checkpoint_before):
            return
        if trainer.team.on_first(lambda: trainer._validate_checkpoint(path)):  # an earlier one of the same step
            return
        if trainer.state.best_model_checkpoint == path:
            trainer.state.best_model_checkpoint = best_before
        if trainer.best_checkpoint_before == path:
            trainer.best_checkpoint_before = best_before
