"""Model weights in the Hugging Face layout: ``model.safetensors``, or shards with an index.

Pickled weights are refused: reading them would run code that they carry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironloom.atomic import write_bytes_atomic
from ironloom.errors import CheckpointError
from ironloom.weights.tensors import NATIVE, as_bytes, not_storable, opened, read_json, write_tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_NUM_SHOWN = 20


def save_weights(state_dict: Mapping[str, torch.Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
    """Write weights so that Hugging Face libraries read them.

    Names of one tensor (tied weights) are stored once, under the first name; the header and the
    index keep the others as ``{alias: stored name}``, as ``safetensors.torch.save_model`` does.

    Args:
        state_dict: Tensors by name.
        folder: Where to; other weights of this layout there are replaced.
        max_shard_bytes: Begin another file beyond this size. A single larger tensor gets one of its own.

    Returns:
        The files that were written.

    Raises:
        TypeError: For an entry that is no plain tensor.
        OSError: If the disk does not take it.
    """
    stored, aliases = _without_aliases(state_dict)
    shards = _shards(stored, max_shard_bytes)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    (folder / INDEX).unlink(missing_ok=True)
    for name, shard in zip(names, shards, strict=True):
        write_tensors(shard, folder / name, {alias: kept for alias, kept in aliases.items() if kept in shard})
    for stale in {SINGLE, *(path.name for path in folder.glob("model-*-of-*.safetensors"))} - set(names):
        (folder / stale).unlink(missing_ok=True)
    written = [folder / name for name in names]
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in stored.values()), "aliases": aliases},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        write_bytes_atomic(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
        written.append(folder / INDEX)
    return written


def load_weights(folder: Path, module: torch.nn.Module) -> None:
    """Copy the weights in ``folder`` into ``module``, in place and strictly.

    A name that the files lack is fine if the module shares its memory with one they have, or if they
    say which one it was an alias of. Floating-point weights are converted to the module's dtype.

    Raises:
        CheckpointError: Naming every tensor that is missing, unexpected, or of another shape or kind;
            the module is then unchanged. Also for pickled, missing or damaged files.
        ValueError: If the module has no memory to copy into (meta device, copies in ``state_dict``).
    """
    targets = _targets(module)
    stored, aliases = _read_headers(folder)
    sources = {name: name if name in stored else aliases[name] for name in targets if name in stored or name in aliases}
    misfits = _misfits(targets, stored, aliases, sources)
    if misfits:
        more = f"\n  and {len(misfits) - _NUM_SHOWN} more" if len(misfits) > _NUM_SHOWN else ""
        shown = "".join(f"\n  {misfit}" for misfit in misfits[:_NUM_SHOWN])
        raise CheckpointError(f"the weights in {folder} do not fit the model:{shown}{more}")
    with torch.no_grad():
        for path in sorted({form.path for form in stored.values()}):
            with opened(path) as file:
                for name, source in sources.items():
                    if stored[source].path == path:
                        targets[name].copy_(file.get_tensor(source))


@dataclass(frozen=True)
class _Stored:
    """What a file's header says of one tensor."""

    path: Path
    shape: tuple[int, ...]
    is_float: bool


def _without_aliases(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The distinct tensors, and for each further name of one the name it is stored under."""
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state_dict.items():
        fault = not_storable(tensor) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__} is no tensor"
        if not fault and tensor.dtype not in NATIVE:
            fault = f"weights of {tensor.dtype} are not stored in this layout"
        if fault:
            raise TypeError(f"{name} cannot be stored: {fault}")
        kept = first.setdefault(_memory(tensor), name)
        if kept == name:
            stored[name] = tensor
        else:
            aliases[name] = kept
    return stored, aliases


def _memory(tensor: torch.Tensor) -> Any:
    """A key that two tensors share if they are the same piece of memory, seen the same way."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _shards(tensors: dict[str, torch.Tensor], max_bytes: int) -> list[dict[str, torch.Tensor]]:
    """Consecutive groups of tensors of at most ``max_bytes`` each; at least one group."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _targets(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of ``module`` that have names in its state dict; the very ones, to copy into."""
    targets = {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    if any(target.is_meta for target in targets.values()):
        raise ValueError("the module is on the meta device: materialize it (to_empty) before loading weights")
    own = {id(tensor) for tensor in [*module.parameters(), *module.buffers()]}
    copies = [name for name, target in targets.items() if id(target) not in own]
    if copies:
        raise ValueError(f"the module's state_dict returns copies, which cannot be loaded into: {', '.join(copies)}")
    return targets


def _read_headers(folder: Path) -> tuple[dict[str, _Stored], dict[str, str]]:
    """What is stored in ``folder`` by name, and the aliases that the files record."""
    weight_map = _read_weight_map(folder)
    stored: dict[str, _Stored] = {}
    aliases: dict[str, str] = {}
    for path in [folder / name for name in sorted(set(weight_map.values()))] if weight_map else [folder / SINGLE]:
        with opened(path) as file:
            aliases |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if weight_map is None or weight_map.get(name) == path.name:
                    part = file.get_slice(name)
                    stored[name] = _Stored(path, tuple(part.get_shape()), "F" in part.get_dtype())
    return stored, {alias: kept for alias, kept in aliases.items() if kept in stored and alias not in stored}


def _read_weight_map(folder: Path) -> dict[str, str] | None:
    """The index: file name by tensor name; None where one file holds all.

    Raises:
        CheckpointError: If there are no weights, only pickled ones, or the index leads elsewhere.
    """
    if (folder / SINGLE).exists():
        return None
    path = folder / INDEX
    if not path.exists():
        pickled = sorted(found.name for pattern in _PICKLED for found in folder.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{folder} has no {SINGLE}, only {', '.join(pickled)}: loading such files runs code that they carry, "
                "so they are refused. If you trust them, convert them to safetensors first."
            )
        raise CheckpointError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")
    content = read_json(path)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} names {name!r}, which is no safetensors file in this folder")
    return weight_map


def _misfits(targets: dict[str, torch.Tensor], stored: dict[str, _Stored], aliases: dict[str, str], sources: dict[str, str]) -> list[str]:
    """Every way in which the stored weights are not exactly the module's, one line each."""
    groups = {name: _memory(target) for name, target in targets.items()}
    filled: dict[Any, str] = {}
    misfits = []
    for name, source in sources.items():
        target, form = targets[name], stored[source]
        if tuple(target.shape) != form.shape:
            misfits.append(f"shape: {name} is {list(form.shape)} in the files, {list(target.shape)} in the model")
        elif target.is_floating_point() != form.is_float:
            where = ("files", "model") if form.is_float else ("model", "files")
            misfits.append(f"kind: {name} is floating-point in the {where[0]}, but not in the {where[1]}")
        other = filled.setdefault(groups[name], source)
        if other != source and not misfits and not _equal(stored[other].path, other, form.path, source):
            misfits.append(f"tied: {other} and {source} are one tensor in the model, but differ in the files")
    misfits += [f"missing: {name}" for name in targets if name not in sources and groups[name] not in filled]
    return misfits + [f"unexpected: {name}" for name in [*stored, *aliases] if name not in targets]


def _equal(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    with opened(path) as file, opened(other_path) as other:
        values = [file.get_tensor(name), other.get_tensor(other_name)]
    return torch.equal(*map(as_bytes, values))
