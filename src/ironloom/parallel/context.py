"""Which part of a sequence each process of a context parallel group holds. Pure arithmetic, without torch.

A sequence of S tokens is cut into equal chunks. In *contiguous* order rank ``r`` of ``n`` holds chunk ``r`` of ``n``.
Causal attention then gives the last rank the most work, n-fold that of the first. In *zigzag* order there are
``2 n`` chunks and rank ``r`` holds the chunks ``r`` and ``2 n - 1 - r``: one early and one late, so that all ranks have the same
work (Llama 3, arXiv:2407.21783, section 3.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ironloom.errors import DataError

Order = Literal["zigzag", "contiguous"]


@dataclass(frozen=True)
class Layout:
    """The chunks of every rank.

    Attributes:
        size: Processes that share a sequence.
        rank: This process among them.
        order: ``"zigzag"`` or ``"contiguous"``.
    """

    size: int
    rank: int
    order: Order = "zigzag"

    @property
    def multiple(self) -> int:
        """What the length of a sequence must be divisible by: the number of chunks."""
        return 2 * self.size if self.order == "zigzag" else self.size

    def chunks_of(self, rank: int) -> tuple[int, ...]:
        """The numbers of the chunks that a rank holds, in the order in which it holds them."""
        return (rank, self.multiple - 1 - rank) if self.order == "zigzag" else (rank,)

    def holder(self, chunk: int) -> tuple[int, int]:
        """The rank that holds a chunk, and the place of the chunk among those of that rank."""
        return (chunk, 0) if chunk < self.size else (self.multiple - 1 - chunk, 1)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Where this rank's chunks begin and end in a sequence of ``length`` tokens.

        Raises:
            DataError: If the sequence cannot be cut into equal chunks.
        """
        problem = length_problem(length, self.size, self.order)
        if problem is not None:
            raise DataError(problem)
        width = length // self.multiple
        return [(chunk * width, (chunk + 1) * width) for chunk in self.chunks_of(self.rank)]


def length_problem(length: int, size: int, order: Order = "zigzag") -> str | None:
    """Why a sequence of ``length`` tokens cannot be shared by ``size`` processes, and what can; None if it can."""
    multiple = Layout(size, 0, order).multiple
    below = length // multiple * multiple
    if below == length > 0:
        return None
    lengths = f"{below:,} or {below + multiple:,}" if below else f"{multiple:,}"
    return (
        f"a sequence of {length:,} tokens cannot be shared by {size} context parallel processes: {order} order cuts it into "
        f"{multiple} equal chunks; use {lengths} tokens, or pad to a multiple of {multiple}"
    )
