"""How single values (numbers, bytes, arrays, tensors) are written as JSON and bytes, exactly."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import numpy as np
import torch

from ironloom.weights.tensors import NATIVE, as_bytes

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

_ARRAY_KINDS = "biufcSUmM"  # numbers, texts, times; not objects and records
_LONG = 1000  # bits from which Python refuses to convert between int and decimal text at some length


def pack_plain(value: Any) -> Any:
    """JSON of a value without tensors or children, or ``NotImplemented`` if it is no such value."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() < _LONG else {"$": "int", "hex": hex(value)}
    if kind is float:
        # Decimal text is exact for finite numbers; JSON has no others, and NaN has many bit patterns.
        return value if math.isfinite(value) else {"$": "float", "hex": struct.pack(">d", value).hex()}
    if kind is str:
        return value if value.isascii() or _is_clean(value) else {"$": "str", "base64": _text(_utf8(value))}
    if kind is complex:
        return {"$": "complex", "hex": struct.pack(">dd", value.real, value.imag).hex()}
    if kind is bytes:
        return {"$": "bytes", "base64": _text(value)}
    if kind is torch.dtype:
        return {"$": "dtype", "name": str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {"$": "device", "name": str(value)}
    if isinstance(value, np.generic) and value.dtype.kind in _ARRAY_KINDS:
        return {"$": "scalar", "dtype": value.dtype.str, "base64": _text(value.tobytes())}
    return NotImplemented


def unpack_plain(tag: str, content: dict[str, Any]) -> Any:
    """The value that :func:`pack_plain` wrote with ``tag``, or ``NotImplemented`` for another tag.

    Raises:
        KeyError, TypeError, ValueError, struct.error: If ``content`` is malformed.
    """
    match tag:
        case "int":
            return int(content["hex"], 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(content["hex"]))[0]
        case "str":
            return base64.b64decode(content["base64"]).decode("utf-8", "surrogatepass")
        case "complex":
            return complex(*struct.unpack(">dd", bytes.fromhex(content["hex"])))
        case "bytes":
            return base64.b64decode(content["base64"])
        case "dtype":
            return DTYPES[content["name"]]
        case "device":
            return torch.device(content["name"])
        case "scalar":
            return _array(content["dtype"], [], base64.b64decode(content["base64"]))[()]
    return NotImplemented


def pack_tensor(tensor: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    """What JSON must say of a tensor, and the tensor to store: itself, or its bytes for rarer dtypes."""
    plain = tensor.detach()
    if plain.dtype in NATIVE:
        return {"$": "tensor"}, plain
    dtype = str(plain.dtype).removeprefix("torch.")
    return {"$": "tensor", "dtype": dtype, "shape": list(plain.shape)}, as_bytes(plain)


def unpack_tensor(content: dict[str, Any], stored: torch.Tensor) -> torch.Tensor:
    """The tensor that :func:`pack_tensor` took.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: If ``content`` is malformed.
    """
    if "dtype" not in content:
        return stored
    return stored.view(DTYPES[content["dtype"]]).reshape(content["shape"])


def pack_array(array: np.ndarray[Any, Any]) -> tuple[dict[str, Any], torch.Tensor] | None:
    """As :func:`pack_tensor` for an array; None if it holds objects or records."""
    if array.dtype.kind not in _ARRAY_KINDS:
        return None
    raw = torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())
    return {"$": "array", "dtype": array.dtype.str, "shape": list(array.shape)}, raw


def unpack_array(content: dict[str, Any], stored: torch.Tensor) -> np.ndarray[Any, Any]:
    """The array that :func:`pack_array` took.

    Raises:
        KeyError, TypeError, ValueError: If ``content`` is malformed.
    """
    return _array(content["dtype"], content["shape"], stored.numpy().tobytes())


def _array(dtype: str, shape: list[int], data: bytes) -> np.ndarray[Any, Any]:
    kind = np.dtype(str(dtype))
    if kind.kind not in _ARRAY_KINDS:
        raise ValueError(f"arrays of {dtype!r} are not stored")
    return np.ndarray(shape, kind, buffer=bytearray(data))


def _is_clean(text: str) -> bool:
    """Whether ``text`` is free of single surrogates, which JSON would join to other characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
