"""Model weights in the Hugging Face layout: ``model.safetensors``, or shards with an index.

Pickled weights are refused: reading them would run code that they carry.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironloom.errors import CheckpointError
from ironloom.weights.names import raw_name
from ironloom.weights.parts import MAX_SHARD_BYTES, memory, weight_parts
from ironloom.weights.peers import ALONE, Peers
from ironloom.weights.stored import copy_into
from ironloom.weights.tensors import as_bytes, opened, read_index

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

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
    parts = list(weight_parts(state_dict, ALONE, max_shard_bytes=max_shard_bytes))
    (folder / INDEX).unlink(missing_ok=True)
    for part in parts:
        part.write(folder)
        part.check(folder)
    remove_other_weights(folder, {part.name for part in parts})
    return [folder / part.name for part in parts]


def remove_other_weights(folder: Path, names: Collection[str]) -> None:
    """Remove the files of this layout in ``folder`` that are not among ``names``."""
    for path in [folder / SINGLE, folder / INDEX, *folder.glob("model-*-of-*.safetensors")]:
        if path.name not in names:
            path.unlink(missing_ok=True)


def load_weights(folder: Path, module: torch.nn.Module, peers: Peers = ALONE, *, stem: str = "model") -> None:
    """Copy the weights in ``folder`` into ``module``, in place and strictly.

    Of several processes each reads what it holds, and together they must hold everything.

    A name that the files lack is fine if the module shares its memory with one they have, or if they
    say which one it was an alias of. Floating-point weights are converted to the module's dtype.

    Args:
        folder: With the files.
        module: What they are copied into.
        peers: Those that load together.
        stem: What the names of the files begin with.

    Raises:
        CheckpointError: Naming every tensor that is missing, unexpected, or of another shape or kind;
            the module is then unchanged. Also for pickled, missing or damaged files.
        ValueError: If the module has no memory to copy into (meta device, copies in ``state_dict``).
    """
    names = peers.together(lambda: list(_targets(module)))
    held = {name for _, part in peers.distinct(names, json.dumps(names)) for name in part}
    peers.together(lambda: _load(folder, module, held, stem))


def _load(folder: Path, module: torch.nn.Module, held: Collection[str], stem: str) -> None:
    targets = _targets(module)
    stored, aliases = _read_headers(folder, stem)
    sources = {name: name if name in stored else aliases[name] for name in targets if name in stored or name in aliases}
    misfits = _misfits(targets, stored, aliases, sources, held)
    if misfits:
        more = f"\n  and {len(misfits) - _NUM_SHOWN} more" if len(misfits) > _NUM_SHOWN else ""
        shown = "".join(f"\n  {misfit}" for misfit in misfits[:_NUM_SHOWN])
        raise CheckpointError(f"the weights in {folder} do not fit the model:{shown}{more}")
    with torch.no_grad():
        for path in sorted({form.path for form in stored.values()}):
            with opened(path) as file:
                for name, source in sources.items():
                    if stored[source].path == path:
                        copy_into(targets[name], file, source)


@dataclass(frozen=True)
class _Stored:
    """What a file's header says of one tensor."""

    path: Path
    shape: tuple[int, ...]
    is_float: bool


def _targets(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of ``module`` that have names in its state dict; the very ones, to copy into."""
    targets = {raw_name(name): value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    if any(target.is_meta for target in targets.values()):
        raise ValueError("the module is on the meta device: materialize it (to_empty) before loading weights")
    own = {id(tensor) for tensor in [*module.parameters(), *module.buffers()]}
    copies = [name for name, target in targets.items() if id(target) not in own]
    if copies:
        raise ValueError(f"the module's state_dict returns copies, which cannot be loaded into: {', '.join(copies)}")
    return targets


def _read_headers(folder: Path, stem: str) -> tuple[dict[str, _Stored], dict[str, str]]:
    """What is stored in ``folder`` by name, and the aliases that the files record."""
    single, index = (name.replace("model", stem, 1) for name in (SINGLE, INDEX))
    weight_map = _read_weight_map(folder, single, index)
    stored: dict[str, _Stored] = {}
    aliases: dict[str, str] = {}
    for path in [folder / name for name in sorted(set(weight_map.values()))] if weight_map else [folder / single]:
        with opened(path) as file:
            aliases |= file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if weight_map is None or weight_map.get(name) == path.name:
                    part = file.get_slice(name)
                    stored[name] = _Stored(path, tuple(part.get_shape()), "F" in part.get_dtype())
    return stored, {alias: kept for alias, kept in aliases.items() if kept in stored and alias not in stored}


def _read_weight_map(folder: Path, single: str, index: str) -> dict[str, str] | None:
    """The index: file name by tensor name; None where one file holds all.

    Raises:
        CheckpointError: If there are no weights, only pickled ones, or the index leads elsewhere.
    """
    if (folder / single).exists():
        return None
    path = folder / index
    if not path.exists():
        pickled = sorted(found.name for pattern in _PICKLED for found in folder.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{folder} has no {single}, only {', '.join(pickled)}: loading such files runs code that they carry, "
                "so they are refused. If you trust them, convert them to safetensors first."
            )
        raise CheckpointError(f"{folder} has no weights: neither {single} nor {index}")
    return read_index(path)


def _misfits(
    targets: dict[str, torch.Tensor], stored: dict[str, _Stored], aliases: dict[str, str], sources: dict[str, str], held: Collection[str]
) -> list[str]:
    """Every way in which the stored weights are not exactly the module's, one line each."""
    groups = {name: memory(target) for name, target in targets.items()}
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
    return misfits + [f"unexpected: {name}" for name in [*stored, *aliases] if name not in held]


def _equal(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    with opened(path) as file, opened(other_path) as other:
        values = [file.get_tensor(name), other.get_tensor(other_name)]
    return torch.equal(*map(as_bytes, values))
