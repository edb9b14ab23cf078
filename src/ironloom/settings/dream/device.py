"""Devices of a run in code: parallel sizes, arithmetic, memory. Knows no device and no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, FiniteFloat

from ironloom.errors import Problem
from ironloom.settings.base import setting
from ironloom.settings.dream.base import BaseConfig
from ironloom.settings.dream.world import fitting, visible_devices, world_size

Count = Annotated[int, Ge(1)]
Size = Count | Literal["auto"]


def _dtype_name(value: Any) -> Any:
    """The name of a ``torch.dtype``, whose module need not be imported to know it; anything else as it is."""
    is_dtype = type(value).__module__ == "torch" and type(value).__name__ == "dtype"
    return str(value).removeprefix("torch.") if is_dtype else value


Dtype = Annotated[Literal["bfloat16", "float16", "float32"], BeforeValidator(_dtype_name)]


@dataclass(kw_only=True)
class Comm(BaseConfig):
    """Communication between processes."""

    init_timeout_seconds: Count = setting(600, "Patience with a silent rank until training begins.")
    train_timeout_seconds: Count = setting(600, "Patience with a silent rank from then on.")
    trace_buf_size: Annotated[int, Ge(0)] = setting(
        256, "Collectives of each rank that PyTorch's flight recorder keeps, to tell after a failure who called which."
    )
    backend: Literal["nccl", "gloo"] | None = setting(
        None, "How processes talk; null, and nccl where there is no CUDA: as the device does, gloo on a CPU."
    )


@dataclass(kw_only=True)
class DeviceParameters(BaseConfig):
    """Devices: how a model is spread over them, and in which arithmetic it is trained.

    One parallel size may be ``"auto"``: it takes what the others leave of all processes.
    """

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {
        "_dp_shard": "dp_shard",
        "_dp_replicate": "dp_replicate",
        "_tensor_parallel": "tensor_parallel_size",
        "_context_parallel": "context_parallel_size",
        "_pipeline_parallel": "pipeline_parallel_size",
        "tensor_parallel": "tensor_parallel_size",
        "context_parallel": "context_parallel_size",
        "pipeline_parallel": "pipeline_parallel_size",
        "cpu_offload": "offload_parameters",
    }

    data_parallel_size: Count | None = setting(None, "Replicas times shards; null: dp_replicate x dp_shard.")
    tensor_parallel_size: Size = setting(1, "Devices that share each layer.")
    pipeline_parallel_size: Size = setting(1, "Stages that the layers are cut into.")
    context_parallel_size: Size = setting(1, "Devices that share each sequence.")
    dp_replicate: Size = setting("auto", "Copies of the model.")
    dp_shard: Size = setting(1, "Devices that share the weights of one copy.")
    force_fsdp: bool = setting(False, "Wrap for sharding on a single device too.")
    force_ddp: bool = setting(False, "Wrap for replication on a single device too.")

    param_dtype: Dtype = setting("bfloat16", "Type in which weights enter the arithmetic, and are gathered; they are kept in float32.")
    activation_dtype: Dtype | None = setting(
        None, "Type of the arithmetic of the forward and backward pass (autocast), and so of activations; null: param_dtype."
    )
    reduce_dtype: Dtype = setting("float32", "Type in which gradients are summed over processes.")
    error_if_nonfinite: bool = setting(True, "Stop at a loss or gradient that is not finite; false: skip that step.")

    compile_model: bool = setting(False, "Compile the model with torch.compile.")
    compiled_autograd: bool = setting(False, "Compile the backward pass too.")
    async_tensor_parallel: bool | None = setting(
        None, "Overlap the communication of tensor parallelism (CUDA, compiled, with sequence_parallel); null: do not."
    )
    sequence_parallel: bool = setting(False, "With tensor parallelism: norms, dropout and residual sums on slices of the sequence.")
    loss_parallel: bool = setting(False, "With tensor parallelism: the loss from logits of which each device has some columns.")
    context_parallel_rotate_method: Literal["allgather", "alltoall"] = setting(
        "allgather", "How keys and values go round: all at once, or one device's after the other's (a ring)."
    )

    checkpoint_activations: bool = setting(False, "Recompute activations in the backward pass.")
    recompute: Literal["full", "selective"] = setting("full", "What is recomputed: whole blocks, or all but matrix products and attention.")
    activation_memory_budget: Annotated[FiniteFloat, Gt(0), Le(1)] = setting(1.0, "Share of the activations that the compiler may keep.")
    offload_optimizer: bool = setting(False, "Keep the optimizer's state in host memory.")
    offload_parameters: bool = setting(False, "Keep sharded weights in host memory.")
    comm: Comm = setting(default_factory=Comm, doc="Communication between processes.")

    def problems(self) -> Iterable[Problem]:
        """Combinations that cannot be, and a number of devices that is not there."""
        data = [name for name in ("dp_replicate", "dp_shard") if getattr(self, name) == "auto"]
        others = [name for name in _FIXED[1:4] if getattr(self, name) == "auto"]
        # A data-parallel size that is given settles one of its two parts, but not both.
        autos = [*data, *others] if self.data_parallel_size is None or len(data) > 1 else others
        if len(autos) > 1:
            yield Problem(f"at most one size can be 'auto', found {' and '.join(autos)}", autos[1], hint="give the others a number")
            return
        if self.force_fsdp and self.force_ddp:
            yield Problem("force_fsdp and force_ddp exclude each other", "force_ddp", hint="drop one of them")
        if self.async_tensor_parallel and not self.compile_model:
            yield Problem("asynchronous tensor parallelism is the compiler's work", "async_tensor_parallel", hint="set compile_model")
        yield from self._effects()
        yield from self._data_parallel_problems()
        yield from self._world_problems()

    def _effects(self) -> Iterable[Problem]:
        """Options without what they are options of, and types that cannot go together."""
        for name, default, needed, hint in _OPTIONS_OF:
            if getattr(self, name) != default and str(getattr(self, needed)) in ("1", "False"):
                yield Problem(f"it has no effect without {needed}", name, hint=f"set {needed}{hint}, or leave {name} out")
        if self.activation_dtype not in (None, self.param_dtype) and self.param_dtype != "float32":
            message = f"weights in {self.param_dtype} cannot be multiplied in {self.activation_dtype}"
            yield Problem(message, "activation_dtype", hint="leave it out, or set param_dtype to float32")

    def _data_parallel_problems(self) -> Iterable[Problem]:
        wanted = self.data_parallel_size
        if wanted is None:
            return
        known = math.prod(size for size in (self.dp_replicate, self.dp_shard) if size != "auto")
        is_open = "auto" in (self.dp_replicate, self.dp_shard)
        if wanted % known or (not is_open and wanted != known):
            message = f"{wanted} is not dp_replicate {self.dp_replicate} x dp_shard {self.dp_shard}"
            yield Problem(message, "data_parallel_size", hint="leave one of the three out")

    def _world_problems(self) -> Iterable[Problem]:
        known, is_open = self._known_devices()
        world, devices = world_size(), visible_devices()
        sizes = " x ".join(f"{label} {size}" for label, size in self._sizes().items() if size not in (1, "auto"))
        path = next((name for name in _FIXED if getattr(self, name) not in (1, "auto", None)), "dp_replicate")
        if world is not None and (world % known or (not is_open and known != world)):
            found = f"total devices ({known}) must match the available processes ({world}): {sizes or 'every size is 1'}"
            size = self._sizes().get(path, 1)
            size = size if isinstance(size, int) else 1
            can_open = not is_open and self.data_parallel_size is None and world % (known // int(self.dp_replicate)) == 0
            open_up = "dp_replicate 'auto' or " if can_open else ""
            yield Problem(found, path, hint=open_up + fitting(size, known // size, world, is_open))
        elif world is None and devices is not None and known > devices:
            yield Problem(f"total devices ({known}) must match available GPUs ({devices}): {sizes}", path, hint="make a size smaller")

    def _sizes(self) -> dict[str, int | str]:
        data: dict[str, int | str] = {"dp_replicate": self.dp_replicate, "dp_shard": self.dp_shard}
        if self.data_parallel_size is not None:
            data = {"data_parallel_size": self.data_parallel_size}
        names = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
        return {**data, **{name: getattr(self, name) for name in names}}

    def _known_devices(self) -> tuple[int, bool]:
        """The product of the sizes that are numbers, and whether another one is open."""
        sizes = self._sizes().values()
        return math.prod(size for size in sizes if isinstance(size, int)), "auto" in sizes

    def data_parallel(self) -> int | None:
        """Number of processes that see different data; None while the number of processes is not known."""
        sizes = self._sizes()
        parts = [size for name, size in sizes.items() if name.startswith(("dp_", "data_"))]
        if "auto" not in parts:
            return math.prod(size for size in parts if isinstance(size, int))
        world, (known, _) = world_size(), self._known_devices()
        if world is None or world % known:
            return None
        return world // known * math.prod(size for size in parts if isinstance(size, int))

    @classmethod
    def SINGLE_DEVICE(cls, **options: Any) -> Self:  # noqa: N802 - the specification's name
        """One device; ``options`` are further fields."""
        return cls(**{"dp_replicate": 1, "dp_shard": 1, **options})

    @classmethod
    def DDP(cls, **options: Any) -> Self:  # noqa: N802 - the specification's name
        """A whole copy of the model on every device; ``options`` are further fields."""
        return cls(**{"dp_replicate": "auto", "dp_shard": 1, **options})

    @classmethod
    def FSDP(cls, tensor_parallel: Size = 1, dp_shard: Size = "auto", **options: Any) -> Self:  # noqa: N802 - the specification's name
        """One copy of the model, its weights split over all devices.

        Args:
            tensor_parallel: Devices that share each layer.
            dp_shard: Devices that share the weights; ``auto``: all that tensor parallelism leaves.
            **options: Further fields.
        """
        return cls(**{"dp_replicate": 1, "dp_shard": dp_shard, "tensor_parallel_size": tensor_parallel, **options})

    @classmethod
    def HSDP(cls, dp_shard: Size, tensor_parallel: Size = 1, **options: Any) -> Self:  # noqa: N802 - the specification's name
        """Copies of the model, each split over ``dp_shard`` devices.

        Args:
            dp_shard: Devices that share the weights of one copy.
            tensor_parallel: Devices that share each layer.
            **options: Further fields.
        """
        return cls(**{"dp_replicate": "auto", "dp_shard": dp_shard, "tensor_parallel_size": tensor_parallel, **options})


#: Option, the value that asks for nothing, what it is an option of, and what to say of that.
_OPTIONS_OF = (
    ("sequence_parallel", False, "tensor_parallel_size", " above 1"),
    ("loss_parallel", False, "tensor_parallel_size", " above 1"),
    ("context_parallel_rotate_method", "allgather", "context_parallel_size", " above 1"),
    ("recompute", "full", "checkpoint_activations", ""),
    ("compiled_autograd", False, "compile_model", ""),
    ("activation_memory_budget", 1.0, "compile_model", ""),
)
_FIXED = ("dp_shard", "tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size", "dp_replicate", "data_parallel_size")
