"""What processes tell each other outside of the model: counts, wishes, the outcome of what one did for all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ironloom.errors import can_travel
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.parallel.mesh import Place, degrees_of, make_mesh
from ironloom.settings.dream.device import DeviceParameters
from ironloom.weights.peers import ALONE, Peers, new_peers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


class Team:
    """One process alone: everything is agreed, and every sum is its own."""

    def __init__(self, place: Place, device: torch.device):
        self.place = place
        self.device = device

    @property
    def is_alone(self) -> bool:
        """Whether there is one process."""
        return self.place.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.place.rank == 0

    @functools.cached_property
    def peers(self) -> Peers:
        """The same processes as those that save and load together."""
        return ALONE

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes that read different samples, exact for counts up to 2**53."""
        return list(values)

    def any(self, wishes: Sequence[bool]) -> list[bool]:
        """For each wish, whether any process has it."""
        return list(wishes)

    def gather(self, value: T) -> list[T]:
        """The values of the processes that read different samples, in their order."""
        return [value]

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process; its result, or its error, is that of all."""
        return function()

    def barrier(self) -> None:
        """Wait for all."""


class Ranks(Team):
    """Several processes. Every method is collective: all processes call it, at the same place of their programs."""

    def __init__(self, place: Place, device: torch.device):
        super().__init__(place, device)
        self._data: ProcessGroup = place.group("dp_replicate", "dp_shard")

    @property
    def is_alone(self) -> bool:
        """Never: where there is one process, its model was asked to be wrapped as those of several are."""
        return False

    @functools.cached_property
    def peers(self) -> Peers:
        """As in :class:`Team`."""
        return new_peers("saving")

    def sum(self, values: Sequence[float]) -> list[float]:
        """As in :class:`Team`."""
        if self.place.data_size == 1:
            return list(values)
        import torch.distributed as dist

        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers, group=self._data)
        summed: list[float] = numbers.tolist()
        return summed

    def any(self, wishes: Sequence[bool]) -> list[bool]:
        """As in :class:`Team`."""
        import torch.distributed as dist

        counts = torch.tensor(wishes, dtype=torch.int32, device=self.device)
        dist.all_reduce(counts)
        return [count > 0 for count in counts.tolist()]

    def gather(self, value: T) -> list[T]:
        """As in :class:`Team`."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.place.data_size
        dist.all_gather_object(values, value, group=self._data)
        return values

    def on_first(self, function: Callable[[], T]) -> T:
        """As in :class:`Team`."""
        import torch.distributed as dist

        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_first:
            try:
                outcome[0] = function()
            except Exception as error:
                failure, outcome[1] = error, _sendable(error)
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if outcome[1] is not None:
            raise failure or outcome[1]
        result: T = outcome[0]
        return result

    def barrier(self) -> None:
        """As in :class:`Team`."""
        import torch.distributed as dist

        dist.barrier()


def _sendable(error: Exception) -> Exception:
    """The error as other processes can have it: of its own class if that survives the way, else with its text."""
    return error if can_travel(error) else RuntimeError(f"the first process failed: {type(error).__name__}: {error}")


def make_team(environment: DistributedEnvironment, parameters: DeviceParameters | None) -> Team:
    """Meet the other processes, if there are any, and lay out the mesh.

    One process whose model is to be wrapped as those of several are has a mesh too.

    Raises:
        ConfigError: If the degrees do not fit the number of processes.
    """
    if parameters is not None:
        environment.heed(parameters.comm)
    degrees = degrees_of(parameters, environment.world_size)
    is_wrapped = parameters is not None and (parameters.force_fsdp or parameters.force_ddp or parameters.offload_parameters)
    if environment.world_size == 1 and not is_wrapped:
        return Team(Place(), environment.device)
    environment.start(alone=True)
    mesh = make_mesh(degrees, environment.device_type)
    return Ranks(Place(environment.rank, environment.world_size, degrees, mesh), environment.device)
