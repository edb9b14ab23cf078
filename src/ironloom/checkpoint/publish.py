"""Putting a set of files into a folder that others read: all are written before the first is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ironloom.atomic import as_os_error, fsync_folder, fsync_tree
from ironloom.errors import ResourceError
from ironloom.weights.layout import remove_other_weights


def publish_files(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a staging folder, then move its files over those in ``folder``.

    Weights that lie there in other files are removed, so that no loader takes the old ones for the new.

    Raises:
        ResourceError: If the disk is full or ``folder`` cannot be written; its files are as before.
    """
    staging = folder / ".files.saving"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write(staging)
        fsync_tree(staging)
        names = sorted(file.name for file in staging.iterdir())
        for name in names:
            (staging / name).replace(folder / name)
        if any(name.endswith(".safetensors") for name in names):
            remove_other_weights(folder, names)
        fsync_folder(folder)
    except Exception as error:
        refusal = as_os_error(error, staging)
        if refusal is None:
            raise
        raise _failure(folder, refusal) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _failure(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(f"the model could not be written to {folder}: {error.strerror or error}; free space or choose another folder")
