"""Files of tensors: writing and reading safetensors without surprises.

Written here and not by the library alone, because it fails with an error of its own on a full
disk, refuses tensors that share memory, leaves files that only their owner can read, and returns
tensors that lie in the file itself.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ironloom.atomic import as_os_error
from ironloom.errors import CheckpointError

# The dtypes that every supported version of safetensors can hold.
NATIVE = {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
}


def not_storable(tensor: torch.Tensor) -> str:
    """Why the values of ``tensor`` cannot be written as they are, with what to do; ``""`` if they can."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__} has no plain values: gather or dequantize it first"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}: call .to_dense() first"
    if tensor.is_meta:
        return "a tensor on the meta device has no values: materialize it first"
    if tensor.is_quantized:
        return "a quantized tensor: call .dequantize() first"
    return ""


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's values in order, as a flat ``uint8`` tensor; a view where that is possible."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # a single value may keep any stride and still be contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path``, each by value, in one step.

    Args:
        tensors: Tensors of :data:`NATIVE` dtypes on any device; views and shared memory are fine.
        path: The file; replaced only when the new one is whole.
        metadata: Texts for the file's header; ``format: pt`` is added.

    Raises:
        OSError: With the system's number, for instance ``ENOSPC``. No part of the file is left.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staged.touch()
        mode = staged.stat().st_mode
        save_file(_standalone(tensors), staged, metadata={"format": "pt", **(metadata or {})})
        staged.chmod(mode)
        staged.replace(path)
    except SafetensorError as error:
        raise as_os_error(error, path) or OSError(errno.EIO, str(error), os.fspath(path)) from error
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file.

    Raises:
        CheckpointError: If the file is missing or is not whole.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_index(path: Path) -> dict[str, str]:
    """The file name of each tensor, from the index of several files.

    Raises:
        CheckpointError: If it is missing, is no index, or leads out of its folder.
    """
    content = read_json(path)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path} names {name!r}, which is no safetensors file in this folder")
    return weight_map


def _standalone(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values, contiguous, no two in the same memory; copied only where that is not so already."""
    result, taken = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        storage = (plain.device, plain.untyped_storage().data_ptr())
        result[name] = plain.clone() if storage in taken else plain
        taken.add(storage)
    return result
