"""``manifest.json``: the file that makes a folder a checkpoint. Never imports torch.

It is written last and names every other file with its size and hash, and it carries a hash of
itself, so that any change after the save shows. What it says is never trusted: names that lead
out of the folder, symbolic links and wrong types are damages like any other.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time as clock
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from ironloom.atomic import fsync_tree, write_bytes_atomic
from ironloom.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
HASH = "xxh3_128"
LATEST_TIME = 1e12  # seconds; a clock beyond the year 33658 is a damage

_CHUNK = 1 << 20
# Loaders pick these up by their name alone, so one that was slipped in must not go unnoticed.
_LOADED_BY_NAME = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and hash (hexadecimal) of one file."""

    size: int
    hash: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: The optimizer step after which it was written.
        time: When it was written, in seconds since 1970; orders the checkpoints of a run.
        files: Every other file by its path relative to the folder, with ``/``.
        info: What the writer wanted known without opening the files (JSON data).
    """

    step: int
    time: float
    files: dict[str, FileEntry]
    info: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def write_manifest(
    folder: Path, step: int, info: dict[str, Any], *, time: float | None = None, known: Mapping[str, FileEntry] | None = None
) -> Manifest:
    """Hash every file in ``folder``, have everything on the disk, then write the manifest.

    Args:
        folder: The finished files.
        step: The optimizer step, 0 or more.
        info: JSON data; tuples become lists, keys become texts.
        time: Seconds since 1970 to record; now if None.
        known: Files that were measured by whoever wrote them.

    Raises:
        ValueError: If the folder holds something else than files and folders.
        OSError: If a file cannot be read or the disk is full, or a known file is not there as it was measured.
    """
    known = known or {}
    files = {name: known.get(name) or measured(folder / name) for name in _files_below(folder)}
    for name, entry in known.items():
        if name not in files or (folder / name).stat().st_size != entry.size:
            message = "was written by another process, but is not there as it was written (is the folder the same on every node?)"
            raise OSError(errno.EIO, message, str(folder / name))
    manifest = Manifest(step, clock.time() if time is None else time, files, info)
    content = {
        "format": FORMAT,
        "step": manifest.step,
        "time": manifest.time,
        "hash": HASH,
        "files": {name: {"size": entry.size, "hash": entry.hash} for name, entry in files.items()},
        "info": info,
    }
    content["check"] = _check(json.loads(json.dumps(content)))
    fsync_tree(folder)
    write_bytes_atomic(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode("ascii"))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest in ``folder``, fully checked, but not compared with the files.

    Raises:
        CheckpointError: If it is missing, unreadable, changed, or of another format.
    """
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_bytes()) if stat.S_ISREG(os.lstat(path).st_mode) else None
    except FileNotFoundError:
        raise CheckpointError(f"{MANIFEST}: missing, so the checkpoint was never finished") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST}: cannot be read ({type(error).__name__}: {error})") from error
    fault = _fault(content)
    if fault:
        raise CheckpointError(f"{MANIFEST}: {fault}")
    files = {name: FileEntry(entry["size"], entry["hash"]) for name, entry in content["files"].items()}
    return Manifest(content["step"], float(content["time"]), files, content["info"])


def verify(folder: Path, *, deep: bool, progress: Callable[[int], None] | None = None) -> list[str]:
    """Compare the files in ``folder`` with its manifest.

    Args:
        folder: A checkpoint.
        deep: Read and hash every file; else only look whether it is there with the right size.
        progress: Told the number of bytes after each piece that was hashed.

    Returns:
        One line for each damage, none if all is well. Never raises for what it finds. Files that the
        manifest does not list are ignored unless a loader would pick them up by name (``*.safetensors``
        and their index).
    """
    try:
        manifest = read_manifest(folder)
        unlisted = set(_files_below(folder, strict=False)) - set(manifest.files)
    except (CheckpointError, OSError) as error:
        return [str(error)]
    damages = []
    for name, entry in manifest.files.items():
        damage = _damage(folder, name, entry, deep, progress)
        if damage:
            damages.append(f"{name}: {damage}")
    damages += [f"{name}: not in the manifest" for name in sorted(unlisted) if name.endswith(_LOADED_BY_NAME)]
    return damages


def _damage(folder: Path, name: str, entry: FileEntry, deep: bool, progress: Callable[[int], None] | None) -> str:
    """What is wrong with one listed file, or ``""``."""
    try:
        path = folder
        for part in PurePosixPath(name).parts:
            path = path / part
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                return "leads through a symbolic link"
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size != entry.size:
            return f"{status.st_size:,} bytes instead of {entry.size:,}"
        if deep and _measured(path, progress) != (entry.size, entry.hash):
            return "content differs from what was saved (wrong hash)"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return ""


def measured(path: Path) -> FileEntry:
    """Size and hash of a file."""
    return FileEntry(*_measured(path))


def _measured(path: Path, progress: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Size in bytes and hash of a file, read piece by piece."""
    digest, size = xxhash.xxh3_128(), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return size, digest.hexdigest()


def _files_below(folder: Path, strict: bool = True) -> list[str]:
    """Paths of all files but the manifest, relative to ``folder``, sorted."""
    names = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            regular = path.is_dir() if name in folders else path.is_file()
            if strict and (path.is_symlink() or not regular):
                raise ValueError(f"{path}: a checkpoint may hold files and folders only")
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(name for name in names if name != MANIFEST)


def _check(content: dict[str, Any]) -> str:
    """Hash of a manifest's content (without its check), independent of spaces and of the order of keys."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode("ascii"))


def _fault(content: Any) -> str:
    """What is wrong with the content of a manifest, or ``""``."""
    if not isinstance(content, dict):
        return "not a JSON object in a regular file"
    if content.get("format") != FORMAT or content.get("hash") != HASH:
        return f"format {content.get('format')!r} with hash {content.get('hash')!r} is not one this version can read"
    rest = {key: value for key, value in content.items() if key != "check"}
    if content.get("check") != _check(rest):
        return "changed after it was written (wrong check)"
    step, time, files = content.get("step"), content.get("time"), content.get("files")
    if type(step) is not int or step < 0:
        return f"step is {step!r}"
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 <= time < LATEST_TIME:
        return f"time is {time!r}"
    if not isinstance(content.get("info"), dict) or not isinstance(files, dict):
        return "info or files is not a JSON object"
    for name, entry in files.items():
        if not _stays_inside(name):
            return f"file name {name!r} leads out of the checkpoint"
        if not isinstance(entry, dict) or type(entry.get("size")) is not int or type(entry.get("hash")) is not str:
            return f"entry of {name!r} is malformed"
    return ""


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
