"""Writing so that a kill or a power cut leaves the old content or the new, never a part. Knows nothing of what is written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

# Some network and FUSE file systems cannot sync a folder; their renames are ordered by the server.
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace the content of ``path`` in one step, and have it on the disk on return.

    Raises:
        OSError: The old content is then still there, and no temporary file is.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(staged, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            staged.unlink()
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Have the names in ``folder`` (not the files' contents) on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Have the content of ``path`` on the disk; a quota or a full disk may only show up here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Have every regular file below ``folder`` and every folder on the disk, the inner ones first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                fsync_file(path)
        fsync_folder(Path(parent))
