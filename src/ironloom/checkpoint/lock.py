"""One run at a time in an output folder. Never imports torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from ironloom.errors import ResourceError

LOCK = ".ironloom.lock"

_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_HAS_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_PATIENCE = 10  # tenths of a second that a lock which is held is waited for


class RunLock:
    """Holds an output folder while a run writes into it; a context manager.

    The system lets go of it when the process ends, however it ends. The folder is made if need be.

    Raises:
        ResourceError: On entering, if another run holds the folder (named by process, host and
            start), or if it cannot be written.
    """

    def __init__(self, output_dir: str | os.PathLike[str]):
        self.path = Path(output_dir) / LOCK
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        descriptor = self._open()
        try:
            _acquire(descriptor)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ResourceError(
                f"{self.path.parent} is in use by another run ({holder}). Wait for it, stop it, or choose another output_dir."
            ) from None
        except OSError as error:
            if error.errno not in _HAS_NO_LOCKS:
                os.close(descriptor)
                raise ResourceError(f"{self.path} cannot be locked: {error.strerror}") from error
            warnings.warn(
                f"the file system of {self.path.parent} has no locks: make sure that no other run writes there",
                stacklevel=2,
            )
        self._descriptor = descriptor
        self._sign(descriptor)
        # A forked child shares the lock; a data worker that outlives the run must not keep it.
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            why = "is not writable" if error.errno in _NOT_WRITABLE else "cannot be used"
            raise ResourceError(
                f"{self.path.parent} {why}: {error.strerror}. Choose another output_dir or change its permissions."
            ) from error

    def _sign(self, descriptor: int) -> None:
        """Write who holds the lock, for the message to others."""
        start = time.strftime("%Y-%m-%d %H:%M:%S")
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": start}).encode()
        # A full disk must not keep a run from starting: the lock holds without its signature.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _acquire(descriptor: int) -> None:
    """Take the lock; a holder that has just been killed may need a moment until its children have let go.

    Raises:
        BlockingIOError: If somebody else keeps it.
    """
    for _ in range(_PATIENCE):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.1)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {content['pid']} on {content['host']}, started {content['start']}"
    except (ValueError, KeyError, TypeError):
        return "which has not written its name yet"
