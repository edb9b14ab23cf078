"""A checkpoint that several processes write together: it exists when all of them have written, and never before.

The first process makes the hidden folder; each writes, syncs and measures its files; when all have said so, the first
writes the manifest and gives the folder its name. A process that cannot write costs all of them this save, and no
process more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ironloom.atomic import as_os_error, fsync_file
from ironloom.checkpoint.failures import SaveFailed, save_failed
from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import FileEntry, measured
from ironloom.weights.parts import Part
from ironloom.weights.peers import Failure, Peers


@dataclass
class Written:
    """What a process has written of a checkpoint.

    Attributes:
        files: Its files.
        failure: Why it could not write them.
    """

    files: dict[str, FileEntry]
    failure: Failure | None = None


def written(part: Part, folder: Path) -> FileEntry:
    """Write a file and read it back: its size and hash, which are those of what was to be written.

    It is hashed before it is compared: whatever changes it from then on is no longer what the manifest says.

    Raises:
        OSError: If the disk does not take it, or gives back something else.
    """
    path = folder / part.name
    part.write(folder)
    fsync_file(path)
    entry = measured(path)
    part.check(folder)
    return entry


class SharedFolder:
    """The saving side of a :class:`CheckpointFolder` for several processes.

    Args:
        folder: The checkpoints of the run, the same folder for every process.
        peers: Those that save together.
    """

    def __init__(self, folder: CheckpointFolder, peers: Peers):
        self.folder, self.peers = folder, peers

    def save(
        self, step: int, parts: Callable[[], Iterable[Part]], info: dict[str, Any], extras: Callable[[Path], None] | None = None
    ) -> Path:
        """Write a checkpoint; it exists completely when this returns, else not at all. Every process calls this.

        Args:
            step: The optimizer step. A checkpoint of it that is there already is replaced.
            parts: Gives the files of this process one after the other; may exchange tensors with the others between them.
            info: JSON data to be known without opening the files; that of the first process counts.
            extras: Writes further files; called in the first process only.

        Returns:
            The folder of the checkpoint.

        Raises:
            SaveFailed: In every process, if the disk of one did not take its files. Nothing of it is left.
            RankError: If a process is gone.
        """
        staging = self.begin(step, extras)
        try:
            written = self.write(step, staging, parts())
        except BaseException:
            self.abandon(step)
            raise
        return self.finish(step, info, written, self.peers)

    def begin(self, step: int, extras: Callable[[Path], None] | None = None) -> Path:
        """Make the hidden folder, with the further files of the first process in it.

        Raises:
            SaveFailed: In every process, if that is not possible.
        """

        def stage() -> Path:
            staging = self.folder.begin(step)
            if extras is not None:
                extras(staging)
            return staging

        return self._on_first(step, stage, self.peers)

    def write(self, step: int, staging: Path, parts: Iterable[Part]) -> Written:
        """Write the files of this process, as far as the disk takes them; all parts are taken up in any case."""
        outcome = Written({})
        for part in parts:
            if outcome.failure is not None:
                continue
            try:
                outcome.files[part.name] = written(part, staging)
            except Exception as error:
                outcome.failure = self._failure(step, error)
        return outcome

    def finish(self, step: int, info: dict[str, Any], written: Written, peers: Peers) -> Path:
        """Complete a checkpoint when every process has written.

        Args:
            step: As in :meth:`begin`.
            info: As in :meth:`save`.
            written: What this process has written.
            peers: Those to agree with, maybe over another connection.

        Raises:
            SaveFailed: In every process, if one could not write.
        """
        everything = peers.gather(written)
        failures = [each.failure for each in everything if each.failure is not None]
        if failures:
            self.abandon(step)
            self._raise(step, failures[0])
        known = {name: entry for each in everything for name, entry in each.files.items()}
        return self._on_first(step, lambda: self.folder.finish(step, info, known), peers)

    def abandon(self, step: int) -> None:
        """Remove what is staged; the first process does it."""
        if self.peers.rank == 0:
            self.folder.abandon(step)

    def _on_first(self, step: int, action: Callable[[], Path], peers: Peers) -> Path:
        """Let the first process do something; all of them get the path, or raise."""
        path, failure, fault = None, None, None
        if peers.rank == 0:
            try:
                path = action()
            except Exception as error:
                fault, failure = error, self._failure(step, error)
                self.folder.abandon(step)
        path, failure = peers.broadcast((path, failure))
        if failure is not None:
            self._raise(step, failure, fault)
        return Path(path)

    def _failure(self, step: int, error: Exception) -> Failure:
        if isinstance(error, SaveFailed):
            return Failure(self.peers.rank, SaveFailed.__name__, str(error))
        refusal = as_os_error(error, self.folder.root)
        if refusal is None:
            return Failure.of(error, self.peers)
        message = str(save_failed(step, refusal, needed=None, free=self.folder.free_bytes()))
        return Failure(self.peers.rank, SaveFailed.__name__, message)

    def _raise(self, step: int, failure: Failure, fault: Exception | None = None) -> NoReturn:
        if failure.kind == SaveFailed.__name__:
            where = f" (rank {failure.rank})" if self.peers.size > 1 else ""
            raise SaveFailed(step, failure.message + where) from fault
        raise fault or failure.error()
