"""The files of a save, one after the other: gathered from the processes that hold them, written by their owners.

Gathering is an exchange between processes, writing is not. So the parts can be written as they come, with one tensor
in memory beside the file that is being filled, or held and written later, in a thread.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ironloom.atomic import write_bytes_atomic
from ironloom.errors import CheckpointError
from ironloom.weights.peers import Peers
from ironloom.weights.plan import Plan, Planned, Table, make_plan
from ironloom.weights.sharded import full_values, is_sharded, local_part
from ironloom.weights.tensors import NATIVE, as_bytes, not_storable, opened, write_tensors

MAX_SHARD_BYTES = 5 * 10**9


class Part(Protocol):
    """A file to be written."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its content, headers left out."""
        ...

    def write(self, folder: Path) -> None:
        """Write it.

        Raises:
            OSError: If the disk does not take it.
        """
        ...

    def check(self, folder: Path) -> None:
        """Read it back and compare it with what was to be written.

        Raises:
            OSError: If it is something else.
        """
        ...


@dataclass(frozen=True)
class TensorPart:
    """A file of full tensors."""

    name: str
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, folder: Path) -> None:
        """Write the tensors."""
        write_tensors(self.tensors, folder / self.name, self.metadata)

    def check(self, folder: Path) -> None:
        """Compare every byte of every tensor, and their names."""
        path = folder / self.name
        try:
            with opened(path) as file:
                changed = sorted(self.tensors.keys() ^ set(file.keys())) or [
                    name for name, tensor in self.tensors.items() if not _is_stored(tensor, file.get_tensor(name))
                ]
        except CheckpointError as error:
            raise OSError(errno.EIO, str(error), os.fspath(path)) from error
        if changed:
            raise _read_back_wrong(path, f"{changed[0]} in it")


@dataclass(frozen=True)
class BytesPart:
    """A file of bytes."""

    name: str
    data: bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.data)

    def write(self, folder: Path) -> None:
        """Write the bytes."""
        write_bytes_atomic(folder / self.name, self.data)

    def check(self, folder: Path) -> None:
        """Compare every byte."""
        if (folder / self.name).read_bytes() != self.data:
            raise _read_back_wrong(folder / self.name, "it")


def _read_back_wrong(path: Path, what: str) -> OSError:
    return OSError(errno.EIO, f"{what} reads back as something else than was written", os.fspath(path))


def weight_parts(
    state_dict: Mapping[str, torch.Tensor],
    peers: Peers,
    *,
    writers: Sequence[int] | None = None,
    hold: bool = False,
    max_shard_bytes: float = MAX_SHARD_BYTES,
    stem: str = "model",
) -> Iterator[Part]:
    """The files of a model's weights, in the Hugging Face layout, that this process writes.

    Every process iterates over all of its parts: tensors are gathered on the way, whether or not this process owns them.

    Args:
        state_dict: What this process has: full tensors, or DTensors. With ``keep_vars=True`` tied DTensors are stored once.
        peers: Those that save together.
        writers: Peers that write; None: all, each a like share.
        hold: Copy what the next step would change: the parts are written later.
        max_shard_bytes: Begin another file beyond this size.
        stem: What the names of the files begin with.

    Raises:
        TypeError: For an entry that is no plain tensor.
        ValueError: If two processes hold different tensors under one name.
    """
    stored, aliases = peers.together(lambda: without_aliases(state_dict))
    empty = True
    for part in tensor_parts(stored, aliases, stem, peers, writers=writers, hold=hold, max_bytes=max_shard_bytes):
        empty = False
        yield part
    if empty and peers.size == 1:
        yield TensorPart(f"{stem}.safetensors", {}, {})


def tensor_parts(
    tensors: Mapping[str, torch.Tensor],
    aliases: Mapping[str, str],
    stem: str,
    peers: Peers,
    *,
    writers: Sequence[int] | None = None,
    hold: bool = False,
    max_bytes: float = MAX_SHARD_BYTES,
) -> Iterator[Part]:
    """The files of named tensors that this process writes: ``stem.safetensors``, or shards and their index."""
    yield from planned_parts(agreed_plan(tensors, aliases, stem, peers, writers, max_bytes), tensors, stem, peers, hold=hold)


def planned_parts(plan: Plan, tensors: Mapping[str, torch.Tensor], stem: str, peers: Peers, *, hold: bool = False) -> Iterator[Part]:
    """The files of a plan that this process writes."""
    waiting = {file: {tensor.name for tensor in planned if tensor.owner == peers.rank} for file, planned in plan.files.items()}
    filled: dict[str, dict[str, torch.Tensor]] = {}
    for planned in plan.tensors:
        values = _fetch(planned, tensors.get(planned.name), peers, hold)
        if values is None:
            continue
        filled.setdefault(planned.file, {})[planned.name] = values
        if filled[planned.file].keys() == waiting[planned.file]:
            yield TensorPart(planned.file, filled.pop(planned.file), plan.header(planned.file))
    if peers.rank == 0 and len(plan.files) > 1:
        yield BytesPart(f"{stem}.safetensors.index.json", plan.index())


def without_aliases(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The distinct tensors, and for each further name of one the name it is stored under.

    Raises:
        TypeError: For an entry that is no tensor or cannot be stored.
    """
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state_dict.items():
        fault = not_storable(local_part(tensor)) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__} is no tensor"
        if not fault and tensor.dtype not in NATIVE:
            fault = f"weights of {tensor.dtype} are not stored in this layout"
        if fault:
            raise TypeError(f"{name} cannot be stored: {fault}")
        kept = first.setdefault(memory(tensor), name)
        if kept == name:
            stored[name] = tensor
        else:
            aliases[name] = kept
    return stored, aliases


def memory(tensor: torch.Tensor) -> Any:
    """A key that two tensors share if they are the same piece of memory, seen the same way."""
    # A part may be empty in one process and not in another, so parts do not tell; the parameter itself does.
    if tensor.numel() == 0 or is_sharded(tensor):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def agreed_plan(
    tensors: Mapping[str, torch.Tensor],
    aliases: Mapping[str, str],
    stem: str,
    peers: Peers,
    writers: Sequence[int] | None,
    max_bytes: float,
) -> Plan:
    """The plan that every process makes of what all of them have."""
    table: Table = {name: (str(value.dtype).removeprefix("torch."), list(value.shape), None) for name, value in tensors.items()}
    for alias, kept in aliases.items():
        table[alias] = (*table[kept][:2], kept)
    tables = peers.distinct(table, json.dumps(table))
    return make_plan(tables, stem, max_bytes, range(peers.size) if writers is None else writers)


def _fetch(planned: Planned, tensor: torch.Tensor | None, peers: Peers, hold: bool) -> torch.Tensor | None:
    """The values of a tensor in its owner, None in the others."""
    values = None if tensor is None else peers.exchange(lambda: full_values(tensor, planned.source, peers.rank))
    if planned.source != planned.owner:
        if values is not None:
            peers.send(as_bytes(values), planned.owner)
            return None
        if peers.rank == planned.owner:
            data = torch.empty(planned.nbytes, dtype=torch.uint8)
            peers.receive(data, planned.source)
            return data.view(planned.dtype).reshape(planned.shape)
        return None
    if values is not None and hold and tensor is not None and _shares_memory(values, local_part(tensor)):
        return values.clone()
    return values


def _is_stored(tensor: torch.Tensor, found: torch.Tensor) -> bool:
    return torch.equal(as_bytes(found), as_bytes(tensor.cpu()))


def _shares_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.device == other.device and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
