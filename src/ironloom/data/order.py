"""The order of samples as a function: position in an epoch -> index of a sample. Nothing is stored.

A permutation of any size is a Feistel network over the next power of two, walked along its cycles
until it lands inside the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
Any position is reached at the same small cost, so a run resumes at a position, not at a replay.
"""

from __future__ import annotations

from typing import Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ironloom.device import random_key

MAX_SAMPLES = 2**62

_ROUNDS = 8
_MIN_BITS = 4  # below this the halves are so narrow that neighbours stay related
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)  # the multipliers of SplitMix64 (Steele, Lea, Flood, 2014)
_MIX_B = np.uint64(0x94D049BB133111EB)
_SHIFT_A = np.uint64(30)
_SHIFT_B = np.uint64(27)
_SHIFT_C = np.uint64(31)


class Order(Protocol):
    """Position in an epoch -> index of a sample, for every epoch."""

    def __call__(self, epoch: int, positions: NDArray[np.int64], /) -> NDArray[np.int64]:
        """The indices at ``positions`` of an epoch, in their shape."""


@runtime_checkable
class Ordered(Protocol):
    """A dataset that says in which order it is read."""

    def order_of_samples(self, seed: int, shuffle: bool) -> Order:
        """The order under a seed.

        Args:
            seed: Names it.
            shuffle: Whether samples come in random order; else in their own.
        """


class EpochOrder:
    """The order of a dataset that has none of its own: a permutation for each epoch, or positions as they are.

    Args:
        num_samples: Samples in the dataset.
        seed: Names the order, together with the epoch.
        shuffle: Whether positions are permuted; else position and index are equal.
    """

    def __init__(self, num_samples: int, seed: int, shuffle: bool):
        self._num_samples, self._seed, self._shuffle = num_samples, seed, shuffle
        self._epoch = -1
        self._permutation: Permutation | None = None

    def __call__(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indices at ``positions`` of an epoch, in their shape."""
        if not self._shuffle or not positions.size:
            return positions
        if self._permutation is None or epoch != self._epoch:
            self._permutation = Permutation(self._num_samples, random_key("order", self._seed, epoch))
            self._epoch = epoch
        return self._permutation(positions)


class Permutation:
    """A keyed bijection of ``range(num_samples)``.

    Args:
        num_samples: Size of the range, from 1 to 2**62.
        key: Names the permutation; another key gives an unrelated one.

    Raises:
        ValueError: If ``num_samples`` is outside its range.
    """

    def __init__(self, num_samples: int, key: int):
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise ValueError(f"a permutation needs 1 to 2**62 samples, not {num_samples}")
        self.num_samples = num_samples
        bits = max((num_samples - 1).bit_length(), _MIN_BITS)
        self._low_bits = np.uint64(bits // 2)
        self._low_mask = np.uint64(2 ** (bits // 2) - 1)
        self._high_mask = np.uint64(2 ** (bits - bits // 2) - 1)
        self._round_keys = [np.uint64(random_key("round", key, number)) for number in range(_ROUNDS)]

    @overload
    def __call__(self, positions: int) -> int: ...
    @overload
    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]: ...

    def __call__(self, positions: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
        """The samples at ``positions``.

        Args:
            positions: One position or an int64 array of any shape, each in ``[0, num_samples)``.

        Returns:
            The indices, in the shape of ``positions``.

        Raises:
            IndexError: If a position is out of range.
        """
        if isinstance(positions, int):
            return int(self(np.array([positions], dtype=np.int64))[0])
        if positions.size and (positions.min() < 0 or positions.max() >= self.num_samples):
            raise IndexError(f"position out of range: there are {self.num_samples} samples")
        shuffled = self._scramble(positions.reshape(-1).astype(np.uint64))
        limit = np.uint64(self.num_samples)
        outside = np.flatnonzero(shuffled >= limit)
        while outside.size:
            walked = self._scramble(shuffled[outside])
            shuffled[outside] = walked
            outside = outside[walked >= limit]
        return shuffled.astype(np.int64).reshape(positions.shape)

    def _scramble(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The Feistel network: a bijection of ``range(2**bits)``."""
        low, high = values & self._low_mask, values >> self._low_bits
        for number in range(0, _ROUNDS, 2):
            high ^= _mix(low, self._round_keys[number]) & self._high_mask
            low ^= _mix(high, self._round_keys[number + 1]) & self._low_mask
        return (high << self._low_bits) | low


def _mix(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's finaliser over ``values ^ key``; makes no bijection itself, the network does."""
    mixed = values ^ key
    mixed ^= mixed >> _SHIFT_A
    mixed *= _MIX_A
    mixed ^= mixed >> _SHIFT_B
    mixed *= _MIX_B
    mixed ^= mixed >> _SHIFT_C
    return mixed
