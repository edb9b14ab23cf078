"""Counts what PyTorch is asked for: memory that is alive at the same time, and bytes given to collectives."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._guards import active_fake_mode
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode


class Meter(TorchDispatchMode):
    """Counts storages that are alive, and bytes that collectives send.

    Args:
        axes_of: Says along which axes of the mesh a group of ranks communicates.
    """

    def __init__(self, axes_of: Any):
        super().__init__()
        self.now = self.peak = 0
        self.moved: dict[str, int] = {}
        self._axes_of = axes_of
        self._sizes: dict[int, int] = {}

    #: The fake mode that was on when counting began.
    _mode: Any = None

    def see(self, tensor: Tensor) -> None:
        """Count a tensor, if its memory is not counted yet."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0
            weakref.finalize(storage, self._drop, key)
        self._resize(key, storage.nbytes())

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def _resize(self, key: int, size: int) -> None:
        self.now += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens within; sharded weights come and go by resizing their storages, which no mode sees."""
        self._mode = active_fake_mode()
        resize = torch.UntypedStorage.resize_

        def seen(storage: torch.UntypedStorage, size: int) -> Any:
            resized = resize(storage, size)
            if storage._cdata in self._sizes:
                self._resize(storage._cdata, storage.nbytes())
            return resized

        with mock.patch.object(torch.UntypedStorage, "resize_", seen), self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again with the tensors of this process
        if func is torch.ops.aten._local_scalar_dense.default:
            # A number is asked of a tensor that has none: nothing is wrong, and losses and counts are one.
            return False if args[0].dtype is torch.bool else 1
        if func is torch.ops._c10d_functional.wait_tensor.default and self._mode is not None:
            return args[0]  # as a real one does; a fake one would be a new tensor
        result = func(*args, **(kwargs or {}))
        if active_fake_mode() is not self._mode:
            return result  # DTensor asks for the shape of a result
        if func in collective_ops and func not in sync_ops:
            self._send(func, result, args, kwargs)
        torch.utils._pytree.tree_map_only(Tensor, self.see, result)
        return result

    def _send(self, func: Any, result: Any, args: Any, kwargs: Any) -> None:
        group = CollectiveOp.get_process_group(func, args)
        others, name = group.size() - 1, str(func)
        size = CollectiveOp.get_comm_tensor_size(func, result, args, kwargs)
        if "recv" in name:
            return
        if "send" not in name:
            size = size * others // group.size() * (2 if "all_reduce" in name or "allreduce" in name else 1)
        axes = self._axes_of(dist.get_process_group_ranks(group))
        self.moved[axes] = self.moved.get(axes, 0) + size
