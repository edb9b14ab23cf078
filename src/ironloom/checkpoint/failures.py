"""The failure of a save, and what is known of its cause. Never imports torch."""

from __future__ import annotations

import errno

from ironloom.errors import ResourceError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class SaveFailed(ResourceError):  # noqa: N818 (says what happened, like Interrupted)
    """A checkpoint could not be written. Nothing of it is left; earlier ones are untouched.

    Training can go on: the caller warns and tries again at the next save.

    Attributes:
        step: The step whose checkpoint was to be written.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


def save_failed(step: int, error: OSError, *, needed: int | None, free: int | None) -> SaveFailed:
    """The error of one failed save: step, cause, bytes, and what to do.

    Args:
        step: The step that was to be saved.
        error: What the system said.
        needed: Size of the checkpoint in bytes, None if unknown.
        free: Bytes free on the disk, None if unknown.
    """
    cause = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename else ""
    amounts = []
    if needed is not None:
        amounts.append(f"{needed:,} bytes needed")
    if free is not None:
        amounts.append(f"{free:,} bytes free")
    room = f"; {', '.join(amounts)}" if amounts else ""
    return SaveFailed(step, f"step {step} could not be saved: {cause}{where}{room}. {_advice(error.errno)}")


def _advice(number: int | None) -> str:
    if number in _NO_SPACE:
        return "Free disk space, lower save_total_limit, or choose an output_dir on a larger disk."
    if number == errno.EFBIG:
        return "Raise the file size limit (ulimit -f), or write smaller shards."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make the output_dir writable, or choose another one."
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "Make sure that the output_dir is one and the same folder on every node, and that nothing else removes files in it."
    return "Check the disk that holds the output_dir, or choose another output_dir."
