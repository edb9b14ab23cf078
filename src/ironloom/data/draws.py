"""Whether a piece of code drew from the global random generators, told at a few microseconds.

Seeding before every sample costs as much as reading many a sample. Most datasets draw nothing, so
it is enough to seed once, read, and look whether the generators still stand where they stood.
"""

from __future__ import annotations

import random

import numpy as np
import torch

_KEY = 0x1F3D5B79  # any number below 2**32


def seed_cpu(key: int) -> None:
    """Seed the global generators of the CPU like ``seed_everything``, for processes that may not use an accelerator."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)


class DrawDetector:
    """Tells whether anything was drawn from the global generators between :meth:`arm` and :meth:`drawn`.

    What it cannot see: generator objects that a dataset owns, and code that puts a global generator's
    state back after use.

    Args:
        devices: Whether the generators of the accelerators belong to it; not in a worker process.
    """

    def __init__(self, devices: bool = True):
        python = random.Random(_KEY)
        self._python_state = python.getstate()
        self._python_value = python.random()
        self._numpy_value = np.random.RandomState(_KEY).random_sample()
        generator = torch.Generator().manual_seed(_KEY)
        self._torch_state = generator.get_state()
        self._torch_draw = torch.empty((), dtype=torch.int64)
        self._torch_value = self._torch_draw.random_(generator=generator).item()
        self._accelerator = torch.get_device_module() if devices and torch.accelerator.is_available() else None
        self._accelerator_state = torch.empty(0)

    def arm(self) -> None:
        """Bring all global generators into one constant state."""
        random.setstate(self._python_state)
        np.random.seed(_KEY)
        torch.default_generator.set_state(self._torch_state)
        if self._accelerator is not None:
            self._accelerator.manual_seed_all(_KEY)
            self._accelerator_state = self._accelerator.get_rng_state()

    def drawn(self) -> bool:
        """Whether a generator has moved since :meth:`arm`; moves them itself."""
        return (
            random.random() != self._python_value
            or np.random.random() != self._numpy_value
            or self._torch_draw.random_().item() != self._torch_value
            or (self._accelerator is not None and not torch.equal(self._accelerator.get_rng_state(), self._accelerator_state))
        )
