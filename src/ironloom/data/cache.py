"""The cache of prepared data: folders named by what they were made from, which exist complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ironloom.atomic import fsync_file, fsync_folder
from ironloom.errors import ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCK = ".lock"
_WAIT = 0.05  # seconds between two looks whether another process has finished


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The folder of the cache.

    Args:
        cache_dir: Taken if given; else ``$IRONLOOM_CACHE``, else ``ironloom`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("IRONLOOM_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "ironloom"


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Make ``folder`` appear with what ``write`` puts into it, at once and for good, or not at all.

    The files are written into a folder beside it, synced to disk, and renamed. Of several processes that do this at the
    same time the first to finish wins; the others throw their work away. What an earlier process left behind when it was
    killed is removed.

    Args:
        folder: The name to appear under.
        write: Writes the files into the folder that it is given.

    Raises:
        ResourceError: If the disk is full or the folder cannot be written.
    """
    staging, lock = _staging(folder)
    try:
        write(staging)
        for file in sorted(staging.iterdir()):
            fsync_file(file)
        fsync_folder(staging)
        try:
            staging.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        fsync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Path | None]:
    """Hold the folder in which ``folder`` is made, ``NAME.partial``, alone; what a killed process left in it is there.

    Another process that holds it is waited for. It is removed when ``folder`` exists on leaving the block.

    Yields:
        The partial folder; None if ``folder`` exists by now.

    Raises:
        ResourceError: If it cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    lock = -1
    try:
        while lock < 0 and not folder.exists():
            lock = _try_lock(partial)
            if lock < 0:
                time.sleep(_WAIT)
        if lock >= 0 and folder.exists():  # it was finished while we opened the lock
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield None if lock < 0 or not partial.exists() else partial
    finally:
        if lock >= 0:
            if folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _try_lock(partial: Path) -> int:
    """The descriptor of the partial folder's lock; -1 if another process holds it."""
    partial.mkdir(parents=True, exist_ok=True)
    try:
        lock = os.open(partial / _LOCK, os.O_CREAT | os.O_RDWR)
    except FileNotFoundError:  # just removed by who finished
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == (partial / _LOCK).stat().st_ino:  # else it was removed with its folder
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return -1


def withdraw(folder: Path) -> None:
    """Remove a published folder: it is gone under its name before the first file of it is.

    Raises:
        ResourceError: If the folder cannot be written.
    """
    away = folder.with_name(f"{folder.name}.staging-{uuid.uuid4().hex[:12]}")
    try:
        (folder / _LOCK).touch()
        folder.rename(away)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(away, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove staging folders of ``folder`` whose process is gone: nobody holds their lock any more."""
    for staging in folder.parent.glob(f"{folder.name}.staging-*"):
        try:
            lock = os.open(staging / _LOCK, os.O_RDWR)
        except FileNotFoundError:  # just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it lives
            continue
        else:
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(lock)


def _staging(folder: Path) -> tuple[Path, int]:
    """A new staging folder for ``folder`` and the lock that says that it is in use."""
    unique = uuid.uuid4().hex[:12]
    unlocked, staging = (folder.with_name(f"{folder.name}.{kind}-{unique}") for kind in ("new", "staging"))
    try:
        unlocked.mkdir(parents=True)
        remove_abandoned(folder)
        lock = os.open(unlocked / _LOCK, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(staging)  # under this name others may look whether the lock is held
    except OSError as error:
        raise cannot_write(folder, error) from error
    return staging, lock


def cannot_write(folder: Path, error: OSError) -> ResourceError:
    """What to raise when ``folder`` could not be written."""
    where = error.filename or folder
    if error.errno in _FULL:
        return ResourceError(f"{folder.parent}: no space left: {error.strerror} (free some, or set cache_dir or IRONLOOM_CACHE)")
    return ResourceError(f"{where}: cannot be written: {error.strerror} (set cache_dir or IRONLOOM_CACHE)")
