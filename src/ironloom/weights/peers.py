"""The processes that save and load together: exchange of plain objects, agreement on failures. Knows no files.

A process that runs alone is :data:`ALONE`. Several share a group on the CPU of its own, so that a save which
goes on in a thread never gets between the messages of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from ironloom import errors

Result = TypeVar("Result")


class Peers:
    """One process among those that save together; all of them call each method, in the same order.

    Args:
        group: Process group of all processes that can carry CPU tensors; None for a process alone.

    Raises:
        RankError: From any exchange, if another process is gone.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self.rank, self.size = (0, 1) if group is None else (torch.distributed.get_rank(group), torch.distributed.get_world_size(group))

    def gather(self, value: Any) -> list[Any]:
        """The objects of all processes, by rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        self.exchange(lambda: torch.distributed.all_gather_object(values, value, group=self.group))
        return values

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The object of the process ``source``."""
        if self.group is None:
            return value
        values = [value if self.rank == source else None]
        self.exchange(lambda: torch.distributed.broadcast_object_list(values, group=self.group, group_src=source))
        return values[0]

    def distinct(self, value: Any, text: str) -> list[tuple[tuple[int, ...], Any]]:
        """The different objects that the processes have, each sent once, with the ranks that have it.

        Args:
            value: This process's.
            text: Equal for equal values and for no others.
        """
        digests = self.gather(_digest(text))
        ranks_of: dict[str, list[int]] = {}
        for rank, digest in enumerate(digests):
            ranks_of.setdefault(digest, []).append(rank)
        return [(tuple(ranks), self.broadcast(value, ranks[0])) for ranks in ranks_of.values()]

    def send(self, data: torch.Tensor, target: int) -> None:
        """Send a CPU tensor to one process, which calls :meth:`receive`; the others do nothing."""
        self.exchange(lambda: torch.distributed.send(data, group=self.group, group_dst=target))

    def receive(self, data: torch.Tensor, source: int) -> None:
        """Fill a CPU tensor with what the process ``source`` sends."""
        self.exchange(lambda: torch.distributed.recv(data, group=self.group, group_src=source))

    def together(self, action: Callable[[], Result]) -> Result:
        """Do something in each process; if it fails in one, all of them raise.

        ``action`` must not exchange anything itself.
        """
        result: Result | None = None
        fault: Exception | None = None
        try:
            result = action()
        except Exception as error:
            fault = error
        raise_first(self.gather(None if fault is None else Failure.of(fault, self)), fault, self)
        return cast(Result, result)

    def first(self, action: Callable[[], Result]) -> Result:
        """Do something in the first process only; all of them get its result, or its failure."""
        result: Result | None = None
        fault: Exception | None = None
        if self.rank == 0:
            try:
                result = action()
            except Exception as error:
                fault = error
        result, failure = self.broadcast((result, None if fault is None else Failure.of(fault, self)))
        raise_first([failure], fault, self)
        return cast(Result, result)

    def exchange(self, action: Callable[[], Result]) -> Result:
        """Do something that exchanges data with other processes; what the backends raise becomes a RankError."""
        try:
            return action()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            message = f"rank {self.rank} lost the connection to the other processes while saving or loading: {error}"
            raise errors.RankError(f"{message}. Look for the first rank that ended, and start again.") from error


@dataclass(frozen=True)
class Failure:
    """An exception in a form that other processes can read.

    Attributes:
        rank: Where it happened.
        kind: Name of its class.
        message: What it says.
        number: The system's error number; None for other errors.
    """

    rank: int
    kind: str
    message: str
    number: int | None = None

    @classmethod
    def of(cls, error: Exception, peers: Peers) -> Failure:
        """The form of ``error``, which happened in this process."""
        number = error.errno if isinstance(error, OSError) else None
        return cls(peers.rank, type(error).__name__, str(error), number)

    def error(self) -> Exception:
        """An exception of the same kind where it is one of ours or of the system's."""
        kind = getattr(errors, self.kind, None)
        if kind in (errors.ConfigError, errors.DataError, errors.CheckpointError, errors.ResourceError, errors.RankError):
            raised: Exception = kind(f"rank {self.rank}: {self.message}")
            return raised
        if self.kind == "FileNotFoundError":
            return FileNotFoundError(self.message)
        return errors.RankError(f"rank {self.rank} failed: {self.kind}: {self.message}")


def raise_first(failures: list[Failure | None], own: Exception | None, peers: Peers) -> None:
    """Raise the failure of the lowest rank, in its own process as the exception that it was."""
    found = [failure for failure in failures if failure is not None]
    if not found:
        return
    if own is not None and found[0].rank == peers.rank:
        raise own
    raise found[0].error() from own


ALONE = Peers()


def new_peers(name: str) -> Peers:
    """The processes of this run, with a new group between them that is called ``name``; every process calls this."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return ALONE
    return Peers(torch.distributed.new_group(backend="gloo", group_desc=name))


def _digest(text: str) -> str:
    import xxhash

    return str(xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass")))
