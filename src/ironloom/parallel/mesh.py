"""Degrees of parallelism, the mesh they make, and the place of a process on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ironloom.errors import ConfigError
from ironloom.settings.dream.device import DeviceParameters

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

#: Axes of every mesh, from the slowest to the fastest; those of size 1 are there too.
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")

_SETTINGS = {"pp": "pipeline_parallel_size", "cp": "context_parallel_size", "tp": "tensor_parallel_size"}


@dataclass(frozen=True)
class Degrees:
    """How many processes share what.

    Attributes:
        pp: Stages that the layers are cut into.
        dp_replicate: Copies of the model.
        dp_shard: Processes that share the weights of one copy.
        cp: Processes that share each sequence.
        tp: Processes that share each layer.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of :data:`AXES`."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def product(self) -> int:
        """Processes in all."""
        return math.prod(self.sizes)

    @property
    def data(self) -> int:
        """Processes that read different samples."""
        return self.dp_replicate * self.dp_shard

    def __str__(self) -> str:
        return " x ".join(f"{axis} {size}" for axis, size in zip(AXES, self.sizes, strict=True) if size > 1) or "one process"


def degrees_of(parameters: DeviceParameters | None, world: int) -> Degrees:
    """The degrees that settings amount to in a world of so many processes; without settings all hold a copy of the model.

    Raises:
        ConfigError: If their product is not ``world``, with the nearest that would be.
    """
    if parameters is None:
        return Degrees(dp_replicate=world)
    sizes: dict[str, Any] = {axis: getattr(parameters, _SETTINGS.get(axis, axis)) for axis in AXES}
    if parameters.data_parallel_size is not None:
        _settle_data(sizes, parameters.data_parallel_size)
    known = math.prod(size for size in sizes.values() if size != "auto")
    for axis, size in sizes.items():
        if size == "auto":
            if world % known:
                raise _misfit({**sizes, axis: 1}, world)
            sizes[axis] = world // known
    degrees = Degrees(**sizes)
    if degrees.product != world:
        raise _misfit(sizes, world)
    return degrees


def _settle_data(sizes: dict[str, Any], data: int) -> None:
    """Make ``dp_replicate`` x ``dp_shard`` the given product; what is ``auto`` takes the rest."""
    replicate, shard = sizes["dp_replicate"], sizes["dp_shard"]
    if shard == "auto":
        sizes["dp_shard"] = data // (1 if replicate == "auto" else replicate)
        sizes["dp_replicate"] = 1 if replicate == "auto" else replicate
    elif replicate == "auto":
        sizes["dp_replicate"] = data // shard
    if sizes["dp_replicate"] * sizes["dp_shard"] != data:
        raise ConfigError(f"data_parallel_size is {data}, but dp_replicate x dp_shard is {sizes['dp_replicate'] * sizes['dp_shard']}")


def _misfit(sizes: dict[str, Any], world: int) -> ConfigError:
    product = math.prod(sizes.values())
    rest = math.prod(size for axis, size in sizes.items() if axis != "dp_replicate")
    nearest = f"dp_replicate {world // rest} would fit" if world % rest == 0 else f"start {max(1, world // rest) * rest} processes"
    shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "every size 1"
    return ConfigError(f"{shown} makes {product} processes, but {world} were started: {nearest}")


@dataclass(frozen=True)
class Place:
    """A process on the mesh. Its coordinates are integers; only the groups need ``torch.distributed``.

    Attributes:
        rank: Number among all processes.
        world: Number of processes.
        degrees: Sizes of the mesh.
        mesh: The mesh; None where there is one process.
    """

    rank: int = 0
    world: int = 1
    degrees: Degrees = Degrees()
    mesh: DeviceMesh | None = None

    def coordinate(self, axis: str) -> int:
        """Where this process is on an axis."""
        index = AXES.index(axis)
        return self.rank // math.prod(self.degrees.sizes[index + 1 :]) % self.degrees.sizes[index]

    @property
    def pp_rank(self) -> int:
        """Place among the pipeline's stages."""
        return self.coordinate("pp")

    @property
    def cp_rank(self) -> int:
        """Place among those that share a sequence."""
        return self.coordinate("cp")

    @property
    def tp_rank(self) -> int:
        """Place among those that share a layer."""
        return self.coordinate("tp")

    @property
    def data_rank(self) -> int:
        """Place among those that read different samples."""
        return self.coordinate("dp_replicate") * self.degrees.dp_shard + self.coordinate("dp_shard")

    @property
    def data_size(self) -> int:
        """Number of those that read different samples."""
        return self.degrees.data

    def axes(self, *names: str) -> DeviceMesh:
        """The mesh of one axis, or of several as one (``dp_shard`` and ``cp``, say)."""
        assert self.mesh is not None, "one process has no mesh"
        if len(names) == 1:
            return self.mesh[names[0]]
        return self.mesh[names]._flatten("_".join(names))

    def shards(self) -> DeviceMesh:
        """The mesh over which weights are sharded: one axis, or two where there are copies as well.

        Processes that share a sequence have gradients to sum as those with other samples have, so they share weights too.
        """
        assert self.mesh is not None, "one process has no mesh"
        if self.degrees.cp == 1:
            return self.mesh["dp_replicate", "dp_shard"] if self.degrees.dp_replicate > 1 else self.mesh["dp_shard"]
        shards = self.axes("dp_shard", "cp")
        return self.mesh._concatenate([self.mesh["dp_replicate"], shards]) if self.degrees.dp_replicate > 1 else shards

    def group(self, *names: str) -> ProcessGroup:
        """The process group of these axes together."""
        return self.axes(*names).get_group()


def make_mesh(degrees: Degrees, device_type: str) -> DeviceMesh:
    """The mesh of all processes; the process group must be there."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device_type, degrees.sizes, mesh_dim_names=AXES)
