"""A folder that appears when it is whole and proven."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironloom.atomic import as_os_error, fsync_folder, fsync_tree
from ironloom.errors import ConfigError, ResourceError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its name when the block ends, and is gone if it fails.

    Raises:
        ConfigError: If ``target`` exists and is not an empty folder.
        ResourceError: If the disk does not take it.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists: give another folder with --output, or remove it")
    folder = target.with_name(f".{target.name}.saving")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        fsync_tree(folder)
        folder.replace(target)
        fsync_folder(target.parent)
    except Exception as error:
        refusal = as_os_error(error, folder)
        if refusal is None:
            raise
        raise ResourceError(f"{target} could not be written: {refusal.strerror or refusal}; free space or choose another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
