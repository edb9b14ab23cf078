"""Tensors on disk that are read when they are needed, and of which each process reads only what it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironloom.weights.sharded import from_part, is_sharded, local_part, place, with_layout_of
from ironloom.weights.tensors import opened, read_index


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in an open file.

    Attributes:
        file: The open safetensors file.
        name: Its name there.
    """

    file: Any
    name: str

    def read(self) -> torch.Tensor:
        """The full values, in memory of their own."""
        values: torch.Tensor = self.file.get_tensor(self.name).clone()
        return values

    def read_like(self, target: torch.Tensor) -> torch.Tensor:
        """The values as they belong to ``target``: a part where the target is one, else all of them.

        A tensor of another shape than a DTensor that it belongs to is held in full by every process; a single number
        stays a plain tensor.
        """
        shape = tuple(self.file.get_slice(self.name).get_shape())
        if not is_sharded(target) or not shape:
            return self.read()
        if shape != tuple(target.shape):
            return with_layout_of(target, self.read())
        return from_part(target, _read_part(self.file, self.name, target).clone())


@contextlib.contextmanager
def stored_tensors(folder: Path, stem: str) -> Iterator[dict[str, StoredTensor]]:
    """The tensors of ``stem.safetensors``, or of several such files with an index; to be read inside of the context.

    Raises:
        CheckpointError: If a file is missing or is not whole.
    """
    index = folder / f"{stem}.safetensors.index.json"
    names = sorted(set(read_index(index).values())) if index.exists() else [f"{stem}.safetensors"]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(opened(folder / name)) for name in names]
        yield {name: StoredTensor(file, name) for file in files for name in file.keys()}  # noqa: SIM118 (not a dict)


def copy_into(target: torch.Tensor, file: Any, name: str) -> None:
    """Copy a tensor of an open file into ``target``; into a DTensor the part that this process holds."""
    local_part(target).copy_(_read_part(file, name, target))


def _read_part(file: Any, name: str, target: torch.Tensor) -> torch.Tensor:
    """What this process holds of a stored tensor that is laid out like ``target``; may lie in the file itself."""
    part: torch.Tensor
    if not is_sharded(target):
        part = file.get_tensor(name)
        return part
    if 0 in local_part(target).shape:
        return torch.empty_like(local_part(target), device="cpu")
    part = file.get_slice(name)[place(target)]
    return part


def resolve(tree: Any, target: torch.Tensor | None = None) -> Any:
    """The same tree with every stored tensor read: as it belongs to ``target``, or in full without one."""
    if isinstance(tree, StoredTensor):
        return tree.read() if target is None else tree.read_like(target)
    if isinstance(tree, dict):
        return type(tree)((key, resolve(value, target)) for key, value in tree.items())
    if type(tree) in (list, tuple):
        return type(tree)(resolve(value, target) for value in tree)
    return tree
