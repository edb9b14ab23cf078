"""Writing so that a kill or a power cut leaves the old content or the new, never a part. Knows nothing of what is written.

Also what a failed write of a library meant: several report a full disk by an error of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

# How libraries written in Rust (safetensors, tokenizers) spell the system's number.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")

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


def as_os_error(error: Exception, path: str | os.PathLike[str]) -> OSError | None:
    """The operating system's error that an error is or, coming from a library, stands for; None if neither."""
    if isinstance(error, OSError):
        return error
    found = _OS_ERROR.search(str(error))
    if found is None:
        return None
    number = int(found.group(1))
    return OSError(number, os.strerror(number), os.fspath(path))
