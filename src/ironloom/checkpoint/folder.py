"""The folder that holds a run's checkpoints: saving, finding, retention. Never imports torch.

A save stages its files in a hidden folder, writes the manifest last and renames. So a name
``checkpoint-<step>`` only ever belongs to a finished save, and a kill at any moment leaves either
what was there before or the new checkpoint. Exactly one process calls the methods that change
something (see :class:`ironloom.checkpoint.lock.RunLock`).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import time as clock
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ironloom.atomic import as_os_error, fsync_folder
from ironloom.checkpoint.discovery import (
    Checkpoint,
    Finding,
    aside_folders,
    findings,
    inspect,
    leftover_folders,
)
from ironloom.checkpoint.failures import SaveFailed, save_failed
from ironloom.checkpoint.manifest import MANIFEST, FileEntry, write_manifest
from ironloom.errors import ResourceError


class CheckpointFolder:
    """The checkpoints of one run, in ``root/checkpoint-<step>``. ``root`` need not exist yet."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is or would be."""
        return self.root / f"checkpoint-{step}"

    def save(
        self,
        step: int,
        write: Callable[[Path], Mapping[str, FileEntry] | None],
        info: dict[str, Any],
        *,
        expected_bytes: int | None = None,
    ) -> Path:
        """Write a checkpoint; it exists completely when this returns, else not at all.

        Args:
            step: The optimizer step, 0 or more. One that is there already is replaced.
            write: Puts the files into the folder it is given; may return what it has measured of them.
            info: JSON data to be known without opening the files.
            expected_bytes: Size of the files if known: a disk that cannot hold them is then refused
                before anything is written.

        Returns:
            The folder of the checkpoint.

        Raises:
            SaveFailed: If the disk did not take it. Nothing of it is left; others are untouched.
            ValueError: If ``step`` is negative.
        """
        staging = self.begin(step, expected_bytes)
        try:
            return self.finish(step, info, write(staging))
        except Exception as error:
            refusal = as_os_error(error, staging)
            if refusal is None:
                raise
            raise self.failure(step, refusal, expected_bytes) from error
        finally:
            self.abandon(step)

    def begin(self, step: int, expected_bytes: int | None = None) -> Path:
        """Make the hidden folder for the files of a checkpoint; :meth:`finish` or :meth:`abandon` follows.

        Raises:
            SaveFailed: If the disk cannot take it.
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, found {step}")
        staging = self._hidden(step, "saving")
        try:
            self._stage(staging, expected_bytes)
        except OSError as error:
            raise self.failure(step, error, expected_bytes) from error
        return staging

    def finish(self, step: int, info: dict[str, Any], known: Mapping[str, FileEntry] | None = None) -> Path:
        """Write the manifest (``known``: see there) and give the staged files their name; :meth:`abandon` if this raises."""
        staging = self._hidden(step, "saving")
        write_manifest(staging, step, info, time=self._next_time(), known=known)
        return self._publish(staging, step)

    def abandon(self, step: int) -> None:
        """Remove what is staged of a checkpoint, nothing after :meth:`finish`; what cannot be removed never counts."""
        shutil.rmtree(self._hidden(step, "saving"), ignore_errors=True)

    def failure(self, step: int, error: OSError, expected_bytes: int | None = None) -> SaveFailed:
        """What a failed save means; what was staged is removed first, so that the free bytes are those of the next attempt."""
        self.abandon(step)
        return save_failed(step, error, needed=expected_bytes, free=self.free_bytes())

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, by recorded time, then step. Sizes are compared, contents are not read."""
        whole = [finding for finding in findings(self.root) if not finding.damages]
        newest = {finding.step: finding.checkpoint for finding in whole}
        return sorted(filter(None, newest.values()), key=lambda checkpoint: (checkpoint.time, checkpoint.step))

    def latest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint whose every byte is as it was saved.

        Args:
            warn: Told of every newer checkpoint that is passed over, and why.
        """
        passed_over: list[Finding] = []
        chosen: Checkpoint | None = None
        found = findings(self.root)
        for finding in reversed([finding for finding in found if finding.checkpoint is not None]):
            finding = inspect(finding.path, deep=True)
            if not finding.damages:
                chosen = finding.checkpoint
                break
            passed_over.append(finding)
        # Without a manifest there is no time to order by; the step in the name must do.
        passed_over += [finding for finding in found if finding.checkpoint is None and (chosen is None or finding.step > chosen.step)]
        for finding in passed_over:
            warn(f"{finding.path.name} is damaged and passed over: {finding.damage()}")
        return chosen

    def clean(self) -> None:
        """Remove what killed saves and deletions left behind; no complete checkpoint is ever among it."""
        for leftover in leftover_folders(self.root):
            _delete(leftover)
        for aside in aside_folders(self.root):
            final = self.root / aside.name.removeprefix(".").removesuffix(".old")
            if _is_good(final) or not _is_good(aside):
                _delete(aside)
            elif not final.exists():
                aside.rename(final)
                fsync_folder(self.root)

    def retain(self, limit: int | None, protect: Collection[Path] = ()) -> list[Path]:
        """Delete the oldest complete checkpoints beyond ``limit``.

        The newest and the protected ones stay, even where they are more than ``limit``; damaged ones
        do not count and are left alone. Nothing is deleted unless one that stays was read and is good.

        Args:
            limit: How many complete checkpoints to keep, 1 or more; None for all.
            protect: Folders that must stay, such as that of the best model.

        Returns:
            The folders that were deleted, the oldest first.

        Raises:
            ValueError: If ``limit`` is below 1.
            ResourceError: If one could not be deleted.
        """
        if limit is None:
            return []
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, or None for no limit; found {limit}")
        complete = self.complete()
        kept = {path.resolve() for path in protect}
        deletable = [
            checkpoint.path for checkpoint in complete[:-1] if checkpoint.path.resolve() not in kept and not checkpoint.path.is_symlink()
        ]
        deleted = deletable[: max(0, len(complete) - limit)]
        staying = [checkpoint.path for checkpoint in reversed(complete) if checkpoint.path not in deleted]
        if not deleted or not any(_is_good(path) for path in staying):
            return []
        for path in deleted:
            self._retire(path)
        return deleted

    def free_bytes(self) -> int | None:
        """Free bytes on the disk; None where the file system does not say."""
        try:
            usage = shutil.disk_usage(self.root)
        except OSError:
            return None
        return usage.free if usage.total else None

    def _stage(self, staging: Path, expected_bytes: int | None) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        if staging.exists():
            shutil.rmtree(staging)
        free = self.free_bytes()
        if expected_bytes is not None and free is not None and expected_bytes > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root))
        staging.mkdir()

    def _publish(self, staging: Path, step: int) -> Path:
        """Give the staged checkpoint its name; one of the same step steps aside until that is done."""
        final, aside = self.path(step), self._hidden(step, "old")
        if aside.exists():  # from a kill during an earlier replacement: keep the good one of the two
            _delete(aside if _is_good(final) else final)
        if final.exists():
            final.rename(aside)
        try:
            staging.rename(final)
        except OSError:
            if aside.exists():
                aside.rename(final)
            raise
        fsync_folder(self.root)
        with contextlib.suppress(OSError):  # the save is done; clean() tries again
            _delete(aside)
        return final

    def _retire(self, path: Path) -> None:
        doomed = path.with_name(f".{path.name.removeprefix('.').removesuffix('.old')}.deleting")
        try:
            if doomed.exists():
                _delete(doomed)
            path.rename(doomed)
            _delete(doomed)
        except OSError as error:
            raise ResourceError(f"{path} could not be deleted: {error.strerror}. Delete it by hand.") from error

    def _next_time(self) -> float:
        """Now, or just after the newest checkpoint if the clock was set back."""
        times = [finding.checkpoint.time for finding in findings(self.root) if finding.checkpoint]
        return max(clock.time(), *(math.nextafter(time, math.inf) for time in times), 0.0)

    def _hidden(self, step: int, state: str) -> Path:
        return self.root / f".checkpoint-{step}.{state}"


def _is_good(path: Path) -> bool:
    return not inspect(path, deep=True).damages


def _delete(path: Path) -> None:
    """Delete a folder, its manifest first: what is half deleted is then no checkpoint anywhere."""
    if not path.exists():
        return
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)
