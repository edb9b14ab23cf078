"""Trees of plain values and tensors as JSON plus safetensors, exactly, and without pickle.

JSON holds everything but the tensors. What JSON has no word for is an object with the key ``$``:
``{"$": "tuple", "items": [...]}``, ``{"$": "tensor", "key": "state.0.exp_avg"}``. Reading builds
values of a fixed list of types and nothing else, so a file from anywhere cannot run code.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ironloom.atomic import write_bytes_atomic
from ironloom.checkpoint.leaves import (
    pack_array,
    pack_plain,
    pack_tensor,
    unpack_array,
    unpack_plain,
    unpack_tensor,
)
from ironloom.errors import CheckpointError
from ironloom.weights.parts import TensorPart
from ironloom.weights.sharded import is_sharded, local_part
from ironloom.weights.stored import StoredTensor, resolve, stored_tensors
from ironloom.weights.tensors import NATIVE, not_storable, read_json

FORMAT = 1

_SEQUENCES: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", torch.Size: "size"}
_SEQUENCE_TYPES: dict[str, type] = {tag: kind for kind, tag in _SEQUENCES.items()}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered"}
_MAPPING_TYPES: dict[str, type] = {tag: kind for kind, tag in _MAPPINGS.items()}


def pack(tree: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split a tree into a JSON value and its tensors.

    Takes None, bool, int, float, complex, str, bytes, torch tensors, dtypes, devices and sizes, NumPy
    arrays and scalars, and dict, OrderedDict, list, tuple, set and frozenset of these. Where two
    places hold the same object, each gets its own copy on return. Parameters return as tensors, and
    all tensors on the CPU.

    Returns:
        The JSON value, and the tensors (not copied) by the names it refers to them with.

    Raises:
        TypeError: For any other object, naming its place in the tree and what to do.
    """
    packer = Packer()
    return packer.pack(tree, ()), packer.tensors


def unpack(value: Any, tensors: Mapping[str, torch.Tensor | StoredTensor]) -> Any:
    """The tree that :func:`pack` split; stored tensors stay on the disk.

    Raises:
        CheckpointError: If ``value`` is malformed or names a tensor that is not there.
    """
    try:
        return _unpack(value, tensors)
    except KeyError as error:
        raise CheckpointError(f"the stored tree lacks {error}") from error
    except (TypeError, ValueError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"the stored tree is malformed: {error}") from error


def save_tree(tree: Any, folder: Path, name: str) -> None:
    """Write ``name.json`` and, if there are tensors, ``name.safetensors`` into ``folder``.

    Raises:
        TypeError: If the tree holds something that cannot be stored; see :func:`pack`.
        OSError: If the disk does not take it.
    """
    value, tensors = pack(tree)
    weights = folder / f"{name}.safetensors"
    if tensors:
        TensorPart(weights.name, tensors, {}).write(folder)
    else:
        weights.unlink(missing_ok=True)
    write_bytes_atomic(folder / f"{name}.json", encoded(value, len(tensors)))


def encoded(value: Any, num_tensors: int) -> bytes:
    """The content of ``name.json``."""
    return json.dumps({"format": FORMAT, "num_tensors": num_tensors, "tree": value}).encode("ascii")


def load_tree(folder: Path, name: str) -> Any:
    """Read back what :func:`save_tree` wrote.

    Raises:
        CheckpointError: If a file is missing, damaged, or of another format.
    """
    with opened_tree(folder, name) as tree:
        return resolve(tree)


@contextlib.contextmanager
def opened_tree(folder: Path, name: str) -> Iterator[Any]:
    """The tree in ``name.json`` with its tensors still on the disk (``StoredTensor``), to be read inside of the context.

    Raises:
        CheckpointError: If a file is missing, damaged, or of another format.
    """
    path = folder / f"{name}.json"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or "tree" not in content:
        raise CheckpointError(f"{path} is not a stored tree of format {FORMAT}")
    no_tensors: contextlib.AbstractContextManager[dict[str, StoredTensor]] = contextlib.nullcontext({})
    with stored_tensors(folder, name) if content.get("num_tensors") else no_tensors as tensors:
        try:
            tree = unpack(content["tree"], tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        yield tree


class Packer:
    """Turns values into JSON and collects their tensors.

    Args:
        sharded: Take DTensors too; they are collected as they are.

    Attributes:
        tensors: What was collected, by the names that the JSON refers to.
    """

    def __init__(self, *, sharded: bool = False) -> None:
        self.sharded = sharded
        self.tensors: dict[str, torch.Tensor] = {}
        self._open: set[int] = set()

    def pack(self, value: Any, path: tuple[Any, ...]) -> Any:
        """JSON of ``value``, which stands at ``path`` of the tree.

        Raises:
            TypeError: If it cannot be stored.
        """
        plain = pack_plain(value)
        if plain is not NotImplemented:
            return plain
        if isinstance(value, torch.Tensor):
            fault = not_storable(local_part(value) if self.sharded else value)
            if not fault and is_sharded(value) and value.dtype not in NATIVE:
                fault = f"a DTensor of {value.dtype}"
            if fault:
                raise TypeError(f"{_shown(path)} cannot be stored: {fault}")
            return self._store(path, *pack_tensor(value))
        if type(value) is np.ndarray:
            packed = pack_array(value)
            if packed is not None:
                return self._store(path, *packed)
        if type(value) is list or type(value) in _SEQUENCES or type(value) in _MAPPINGS:
            return self._pack_children(value, path)
        raise TypeError(f"{_shown(path)} cannot be stored: {_advice(value)}")

    def _pack_children(self, value: Any, path: tuple[Any, ...]) -> Any:
        if id(value) in self._open:
            raise TypeError(f"{_shown(path)} cannot be stored: it contains itself")
        self._open.add(id(value))
        try:
            if type(value) in _MAPPINGS:
                return self._pack_mapping(value, path)
            items = [self.pack(item, (*path, index)) for index, item in enumerate(value)]
        finally:
            self._open.discard(id(value))
        if type(value) is list:
            return items
        if isinstance(value, (set, frozenset)):
            items.sort(key=json.dumps)  # so that equal sets are equal files
        return {"$": _SEQUENCES[type(value)], "items": items}

    def _pack_mapping(self, value: dict[Any, Any], path: tuple[Any, ...]) -> Any:
        if type(value) is dict and "$" not in value and all(type(key) is str and key.isascii() for key in value):
            return {key: self.pack(item, (*path, key)) for key, item in value.items()}
        pairs = [[self.pack(key, (*path, key)), self.pack(item, (*path, key))] for key, item in value.items()]
        return packed_pairs(pairs, _MAPPINGS[type(value)])

    def _store(self, path: tuple[Any, ...], entry: dict[str, Any], tensor: torch.Tensor) -> dict[str, Any]:
        readable = ".".join(map(str, path)).encode("ascii", "backslashreplace").decode("ascii")
        key = readable = readable if readable not in ("", "__metadata__") else f"{readable}#"
        number = 1
        while key in self.tensors:
            number += 1
            key = f"{readable}#{number}"
        self.tensors[key] = tensor
        return entry | {"key": key}


def packed_pairs(pairs: list[list[Any]], kind: str = "dict") -> dict[str, Any]:
    """JSON of a mapping of any keys, from that of its keys and values."""
    return {"$": kind, "items": pairs}


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor | StoredTensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: _unpack(item, tensors) for key, item in value.items()}
    tag = value["$"]
    if tag == "tensor":
        stored = tensors[value["key"]]
        return stored if "dtype" not in value else unpack_tensor(value, resolve(stored))
    if tag == "array":
        return unpack_array(value, resolve(tensors[value["key"]]))
    if tag in _SEQUENCE_TYPES:
        return _SEQUENCE_TYPES[tag](_unpack(item, tensors) for item in value["items"])
    if tag in _MAPPING_TYPES:
        pairs = ((_unpack(key, tensors), _unpack(item, tensors)) for key, item in value["items"])
        return _MAPPING_TYPES[tag](pairs)
    plain = unpack_plain(tag, value)
    if plain is NotImplemented:
        raise ValueError(f"unknown kind {tag!r}")
    return plain


def _shown(path: tuple[Any, ...]) -> str:
    return "state" + "".join(f"[{key!r}]" for key in path)


def _advice(value: Any) -> str:
    """What kind of object it is, and what to keep in its place."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if callable(value):
        return f"it is a function or class ({kind}); keep what is needed to make it again, such as a name"
    for base in (dict, list, tuple, set, frozenset, bool, int, float, str, bytes):
        if isinstance(value, base):
            return f"{kind} is not exactly a {base.__name__}; convert it with {base.__name__}(...)"
    return f"{kind} is not plain data; give a dict, list, number, text, array or tensor in its place"
