"""Finding checkpoints in a folder and judging them. Never imports torch, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.checkpoint.manifest import MANIFEST, read_manifest, verify
from ironloom.errors import CheckpointError, ResourceError

_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_ASIDE = re.compile(r"\.checkpoint-(0|[1-9][0-9]*)\.old")
_LEFTOVER = re.compile(r"\.checkpoint-(0|[1-9][0-9]*)\.(saving|deleting)")
_NUM_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: Its folder.
        step: The optimizer step after which it was written.
        time: When it was written, in seconds since 1970.
        info: What its writer noted.
        size: Bytes of all its files.
    """

    path: Path
    step: int
    time: float
    info: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Finding:
    """A folder that is named like a checkpoint, whole or not.

    Attributes:
        path: The folder.
        step: The step in its name; -1 for a folder of another name that was asked for directly.
        checkpoint: What its manifest says; None if that cannot be read.
        damages: What is wrong with it, one line each; empty if it is complete.
    """

    path: Path
    step: int
    checkpoint: Checkpoint | None
    damages: list[str]

    def damage(self) -> str:
        """The damages in one line, the first few of many."""
        more = len(self.damages) - _NUM_SHOWN
        return "; ".join(self.damages[:_NUM_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def inspect(path: Path, *, deep: bool, progress: Callable[[int], None] | None = None) -> Finding:
    """Judge one folder; ``deep`` and ``progress`` as in :func:`ironloom.checkpoint.manifest.verify`."""
    step = _step(path.name)
    try:
        manifest = read_manifest(path)
    except CheckpointError as error:
        return Finding(path, step, None, [str(error)])
    checkpoint = Checkpoint(path, manifest.step, manifest.time, manifest.info, manifest.size)
    damages = verify(path, deep=deep, progress=progress)
    if step not in (-1, manifest.step):
        damages.append(f"the manifest is that of step {manifest.step}")
    return Finding(path, step, checkpoint, damages)


def findings(root: Path) -> list[Finding]:
    """All folders in ``root`` that are named like checkpoints, judged without reading the files.

    Checkpoints that were moved aside while their step was saved anew are among them if they are
    complete: after a kill they may be the only good ones.

    Returns:
        Ordered by recorded time, then step; those without a readable manifest first.
    """
    found = [inspect(path, deep=False) for path in _folders(root) if _NAME.fullmatch(path.name)]
    aside = [inspect(path, deep=False) for path in aside_folders(root)]
    found += [finding for finding in aside if not finding.damages]
    return sorted(found, key=lambda finding: (finding.checkpoint.time if finding.checkpoint else -1.0, finding.step))


def aside_folders(root: Path) -> list[Path]:
    """Folders that were moved aside while their step was saved anew."""
    return [path for path in _folders(root) if _ASIDE.fullmatch(path.name)]


def leftover_folders(root: Path) -> list[Path]:
    """Folders that a kill left half written or half deleted; never checkpoints."""
    return [path for path in _folders(root) if _LEFTOVER.fullmatch(path.name)]


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is meant to be one checkpoint: it is named like one, or has a manifest."""
    name = path.resolve().name
    return _NAME.fullmatch(name) is not None or _ASIDE.fullmatch(name) is not None or (path / MANIFEST).exists()


def _step(name: str) -> int:
    match = _NAME.fullmatch(name) or _ASIDE.fullmatch(name)
    return int(match.group(1)) if match else -1


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResourceError(f"{root} cannot be searched for checkpoints: {error.strerror}") from error
