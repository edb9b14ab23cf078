"""The state of an optimizer in host memory while it is not needed: during the forward and backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class HostState:
    """Moves an optimizer's moments to the host after each update, and back before the next.

    The update itself is that of any optimizer, on the weights' device; what is saved is read from the host.

    Attributes:
        num_bytes: Bytes that are in the host's memory between updates; on a CPU all of them are there anyway.
    """

    def __init__(self) -> None:
        self.num_bytes = 0

    @contextlib.contextmanager
    def on_device(self, optimizer: Optimizer) -> Iterator[None]:
        """In here the state is where the weights are, after it in host memory."""
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if _is_moment(value):
                    state[name] = value.to(parameter.device, non_blocking=True)
        try:
            yield
        finally:
            self.num_bytes = 0
            for state in optimizer.state.values():
                for name, value in state.items():
                    if _is_moment(value):
                        state[name] = value.to("cpu")
                        self.num_bytes += value.numel() * value.element_size()


def _is_moment(value: Any) -> bool:
    """Single numbers stay where the optimizer put them: some want them on the CPU, some on the device."""
    return isinstance(value, Tensor) and value.ndim > 0
