"""Which process writes which tensor into which file. Pure arithmetic, the same in every process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

# What a process has: by name the dtype, the full shape and, for a further name of a tensor, the first one.
Table = dict[str, tuple[str, list[int], str | None]]


@dataclass(frozen=True)
class Planned:
    """One tensor of a save.

    Attributes:
        name: Its name in the files.
        dtype: Its dtype.
        shape: Its full shape.
        source: Rank that has the values, after gathering.
        owner: Rank that writes them.
        file: Name of the file.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    source: int
    owner: int
    file: str

    @property
    def nbytes(self) -> int:
        """Bytes of the full tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """A save of tensors.

    Attributes:
        tensors: All of them, in the order in which they are gathered.
        aliases: Further names of a tensor, with the name it is stored under.
    """

    tensors: list[Planned]
    aliases: dict[str, str]

    @cached_property
    def files(self) -> dict[str, list[Planned]]:
        """The tensors of each file, in order."""
        files: dict[str, list[Planned]] = {name: [] for name in sorted({tensor.file for tensor in self.tensors})}
        for tensor in self.tensors:
            files[tensor.file].append(tensor)
        return files

    def header(self, file: str) -> dict[str, str]:
        """What the header of a file says beside its tensors: the aliases of these."""
        names = {tensor.name for tensor in self.files[file]}
        return {alias: kept for alias, kept in self.aliases.items() if kept in names}

    def index(self) -> bytes:
        """The index that says which file holds which tensor, in the Hugging Face form."""
        content = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in self.tensors), "aliases": self.aliases},
            "weight_map": {tensor.name: file for file, tensors in self.files.items() for tensor in tensors},
        }
        return (json.dumps(content, indent=2) + "\n").encode()


def make_plan(tables: Iterable[tuple[Sequence[int], Table]], stem: str, max_bytes: float, writers: Sequence[int]) -> Plan:
    """Give every tensor an owner and a file.

    The owner is the holder with the fewest bytes so far (of those that may write), so that the writing is spread evenly.

    Args:
        tables: What is held, with the ranks that hold it.
        stem: Beginning of the files' names.
        max_bytes: Begin another file beyond this size.
        writers: Ranks that may write.

    Raises:
        ValueError: If two ranks hold different tensors under one name.
    """
    forms: dict[str, tuple[str, list[int], str | None]] = {}
    holders: dict[str, list[int]] = {}
    for ranks, table in tables:
        for name, form in table.items():
            known = forms.setdefault(name, form)
            if list(known[:2]) != list(form[:2]):
                first, other = (f"{dtype} {list(shape)}" for dtype, shape, _ in (known, form))
                raise ValueError(f"{name} is {first} on rank {holders[name][0]}, but {other} on rank {ranks[0]}")
            if form[2] is None:  # whoever calls it by this name has its values
                forms[name] = form
            holders.setdefault(name, []).extend(ranks)
    aliases = {name: kept for name, (_, _, kept) in forms.items() if kept is not None}
    stored = {name: form for name, form in forms.items() if form[2] is None}
    return Plan(_with_files(_with_owners(stored, holders, writers), stem, max_bytes), aliases)


def _with_owners(
    stored: dict[str, tuple[str, list[int], str | None]], holders: dict[str, list[int]], writers: Sequence[int]
) -> list[Planned]:
    load = dict.fromkeys(writers, 0)
    planned = []
    for name, (dtype, shape, _) in stored.items():
        able = [rank for rank in sorted(holders[name]) if rank in load]
        owner = min(able or writers, key=load.__getitem__)
        source = owner if able else min(holders[name])
        planned.append(Planned(name, getattr(torch, dtype), tuple(shape), source, owner, ""))
        load[owner] += planned[-1].nbytes
    return planned


def _with_files(planned: list[Planned], stem: str, max_bytes: float) -> list[Planned]:
    shards: list[list[str]] = []
    for owner in sorted({tensor.owner for tensor in planned}):
        shards.append([])
        size = 0
        for tensor in (tensor for tensor in planned if tensor.owner == owner):
            if shards[-1] and size + tensor.nbytes > max_bytes:
                shards.append([])
                size = 0
            shards[-1].append(tensor.name)
            size += tensor.nbytes
    if len(shards) == 1:
        file_of = dict.fromkeys(shards[0], f"{stem}.safetensors")
    else:
        file_of = {
            name: f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number, names in enumerate(shards, 1) for name in names
        }
    fields: list[dict[str, Any]] = [vars(tensor) | {"file": file_of[tensor.name]} for tensor in planned]
    return [Planned(**each) for each in fields]
