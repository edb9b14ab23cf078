"""Device choice, dtypes and randomness. The lowest module that imports torch.

Randomness is a function, not a stream: before each unit of work (a sample, a batch, an optimizer
step, an evaluation) the global generators are seeded from a key that names the unit. So nothing
that happens between two units (an evaluation, a save, a callback that draws numbers, a restart)
can change what a unit computes, and no generator state has to be saved.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import resource
import sys
from collections.abc import Iterator

import numpy as np
import torch
import xxhash

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def choose_device(use_cpu: bool = False) -> torch.device:
    """The accelerator of this process if there is one and it is wanted, else the CPU."""
    if not use_cpu and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device("cpu")


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed, for the tensors of the next step.

    Left alone glibc returns them to the system and gets them back at the next allocation, page by page: up to a
    tenth of a step on the CPU. Nothing is changed where its environment variables (``MALLOC_...``, ``GLIBC_TUNABLES``)
    say something, or with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def random_key(*parts: int | str) -> int:
    """A 64-bit key that names a unit of work, e.g. ``random_key("step", seed, step, rank)``."""
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode())


def seed_everything(key: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (all devices) from one 64-bit key."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)
    if torch.accelerator.is_available():
        torch.get_device_module().manual_seed_all(key)


def generator_states() -> tuple[object, object, torch.Tensor]:
    """The states of the three global generators of the CPU, to compare or to restore."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def restore_generators(states: tuple[object, object, torch.Tensor]) -> None:
    """Put back what :func:`generator_states` returned."""
    random.setstate(states[0])  # type: ignore[arg-type]
    np.random.set_state(states[1])  # type: ignore[arg-type]
    torch.set_rng_state(states[2])


@contextlib.contextmanager
def hold_deterministic(wanted: bool) -> Iterator[None]:
    """Within the block, operations without a deterministic implementation raise, if ``wanted``.

    On CUDA, cuBLAS also needs ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` in the environment from the start;
    PyTorch says so itself where it is missing.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if before or not wanted:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on an accelerator, resident of this process on the CPU."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(torch.get_device_module(device).max_memory_allocated(device))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
