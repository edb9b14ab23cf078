"""Several sources as one dataset: each once an epoch, or mixed in given proportions. Owns the arithmetic, no file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ironloom.data.blocks import BlockRows
from ironloom.data.fetch import MapDataset
from ironloom.data.order import EpochOrder, Order
from ironloom.data.schedule import MixedOrder, Schedule, as_fraction, counts_of
from ironloom.errors import ConfigError, DataError, Problem

Counts = dict[str, tuple[int, int | None]]
"""By name of a source: samples and, where their lengths are known, tokens."""

_CHUNK = 1 << 16  # positions that are counted in one go


@runtime_checkable
class Measured(Protocol):
    """A dataset that knows how long its samples are without reading them."""

    @property
    def mean_length(self) -> Fraction:
        """Input tokens of a sample, on average."""

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of the samples at ``indices``."""


class Mixture:
    """Named sources as one dataset.

    Without ratios every sample of every source comes once an epoch, in one order for all of them. With ratios the sources
    take turns so that at any time each has had its share (``schedule.Schedule``), and a source that is exhausted begins
    anew in another order: none of its samples comes twice before all have come once. An epoch ends when every source has been
    seen at least once; the others have been repeated by then. Read by somebody who does not ask for its order
    (:meth:`order_of_samples`), index by index, it is such an epoch, too.

    Ratios are of *tokens*. Where the samples of all sources are equally long, those are ratios of samples, too; else the
    share of samples is the ratio divided by the source's mean length. Of sources that do not know how long their samples are
    (see :class:`Measured`) ratios are of samples.

    Args:
        sources: Map-style datasets by name.
        ratios: How much of each, in any unit: 7 and 3 are 0.7 and 0.3. A source that is not named has 1. None: each once.

    Attributes:
        sources: As given.
        ratios: For each source, or None.

    Raises:
        ConfigError: If there is no source, or a ratio is not above 0 or of no source.
        DataError: If a source is empty.
    """

    def __init__(self, sources: Mapping[str, Any], ratios: Mapping[str, float] | None = None):
        _check(sources, ratios)
        self.sources: dict[str, MapDataset] = dict(sources)
        self.ratios = None if ratios is None else {name: ratios.get(name, 1.0) for name in sources}
        self._names = list(sources)
        self._parts = list(self.sources.values())
        self._measured = [part if isinstance(part, Measured) else None for part in self._parts]
        self._sizes = np.array([len(part) for part in self._parts], dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        self._schedule: Schedule | None = None
        self._length = int(self._ends[-1])
        if self.ratios is not None:
            weights = [as_fraction(ratio) for ratio in self.ratios.values()]
            lengths = [part.mean_length for part in self._measured if part is not None]
            if len(lengths) == len(weights):
                weights = [weight / length for weight, length in zip(weights, lengths, strict=True)]
            self._schedule = Schedule(counts_of(weights))
            self._length = self._schedule.length(self._sizes.tolist())

    def __len__(self) -> int:
        """Samples of an epoch; with ratios some come more than once."""
        return self._length

    def __getitem__(self, index: int) -> Any:
        """One sample: without ratios indices go through the sources one after the other, with ratios they take turns."""
        if not -self._length <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        (source,), (place,) = self._located(np.array([index % self._length]))
        return self._parts[source][int(place)]

    def __getitems__(self, indices: list[int]) -> Sequence[Any]:
        """Many samples at once, from each source in one go."""
        array = np.asarray(indices, dtype=np.int64)
        if array.size and not 0 <= array.min() <= array.max() < self._length:
            raise IndexError(f"sample {array.min()} to {array.max()} of {self._length}")
        sources, places = self._located(array)
        turns = [np.flatnonzero(sources == source) for source in range(len(self._parts))]
        found = [(here, _read(part, places[here].tolist())) for part, here in zip(self._parts, turns, strict=True) if here.size]
        return found[0][1] if len(found) == 1 else _joined(found, len(indices))

    def order_of_samples(self, seed: int, shuffle: bool) -> Order:
        """See ``order.Ordered``. Without ``shuffle`` each source comes in its own order."""
        if self._schedule is None:
            return EpochOrder(self._length, seed, shuffle)
        return MixedOrder(self._schedule, self._sizes.tolist(), self._names, self._length, seed, shuffle)

    def counts(self, indices: NDArray[np.int64]) -> Counts:
        """Samples and tokens of each source among the samples at ``indices``."""
        sources, places = self._located(indices)
        found: Counts = {}
        for number, (name, measured) in enumerate(zip(self._names, self._measured, strict=True)):
            here = places[sources == number]
            found[name] = len(here), None if measured is None else int(measured.lengths(here).sum())
        return found

    def replaced(self, change: Callable[[Any], Any]) -> Mixture:
        """The same mixture and order of samples with something more in them: ``change(source)`` in place of each source."""
        other = copy.copy(self)
        other.sources = {name: change(part) for name, part in self.sources.items()}
        other._parts = list(other.sources.values())
        return other

    @property
    def proportions(self) -> str:
        """What the order of samples depends on besides the seed."""
        periods = [1] * len(self._sizes) if self._schedule is None else self._schedule.counts
        told = ", ".join(
            f"{name} {count} of {size:,}" for name, count, size in zip(self._names, periods, self._sizes.tolist(), strict=True)
        )
        return told if self._schedule is not None else f"once each: {told}"

    def described(self) -> str:
        """What there is of each source and how often an epoch sees it, for the log."""
        told = []
        for number, (name, size) in enumerate(zip(self._names, self._sizes.tolist(), strict=True)):
            text = f"{name} {size:,} samples"
            if self._schedule is not None:
                share = self._schedule.counts[number] / self._schedule.period
                text += f" ({share:.2%} of them, seen {share * self._length / size:.2f} times)"
            told.append(text)
        return f"{self._length:,} samples an epoch: {', '.join(told)}"

    def _located(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each index its source, and the index of the sample in it."""
        if self._schedule is not None:
            sources, draws = self._schedule(indices)
            return sources, draws % self._sizes[sources]
        sources = np.searchsorted(self._ends, indices, side="right")
        return sources, indices - self._ends[sources] + self._sizes[sources]


class SourceCounter:
    """How much of each source the samples of an epoch are, from the order alone: nothing is read, every process finds the same.

    Args:
        mixture: The dataset.
        order: Its order.
    """

    def __init__(self, mixture: Mixture, order: Order):
        self._mixture, self._order = mixture, order

    def __call__(self, epoch: int, start: int, stop: int) -> Counts:
        """What the positions ``start`` to ``stop`` of an epoch hold."""
        total: Counts = dict.fromkeys(self._mixture.sources, (0, 0))
        for first in range(start, stop, _CHUNK):
            positions = np.arange(first, min(first + _CHUNK, stop), dtype=np.int64)
            for name, (samples, tokens) in self._mixture.counts(self._order(epoch, positions)).items():
                before, tokens_before = total[name]
                total[name] = before + samples, None if tokens is None or tokens_before is None else tokens_before + tokens
        return total


def _read(part: Any, indices: list[int]) -> Sequence[Any]:
    # A protocol of PyTorch that a dataset may leave out.
    read_many = getattr(part, "__getitems__", None)
    return [part[index] for index in indices] if read_many is None else read_many(indices)


def _joined(found: list[tuple[NDArray[np.int64], Sequence[Any]]], count: int) -> Sequence[Any]:
    """Samples that were read source by source, at their places; in one piece of memory where the sources give such, all alike."""
    rows = [read.batch for _, read in found if isinstance(read, BlockRows)]
    if len(rows) == len(found) and len({tuple((name, values.shape[1:]) for name, values in batch.items()) for batch in rows}) == 1:
        batch = {name: values.new_empty((count, *values.shape[1:])) for name, values in rows[0].items()}
        for (here, _), part in zip(found, rows, strict=True):
            for name, values in part.items():
                batch[name].numpy()[here] = values.numpy()  # several times faster than index_copy_
        return BlockRows(batch)
    samples: list[Any] = [None] * count
    for here, read in found:
        for place, sample in zip(here.tolist(), read, strict=True):
            samples[place] = sample
    return samples


def _check(sources: Mapping[str, Any], ratios: Mapping[str, float] | None) -> None:
    problems = [] if sources else [Problem("at least one source is needed", path="sources")]
    for name, ratio in (ratios or {}).items():
        if name not in sources:
            problems.append(Problem(f"there is no such source (there are {', '.join(sources)})", path=f"ratios.{name}"))
        elif not 0 < ratio < float("inf"):
            problems.append(Problem(f"expected a number above 0, found {ratio}", path=f"ratios.{name}"))
    for name, part in sources.items():
        if not isinstance(part, MapDataset) or isinstance(part, Mapping):
            message = f"a source needs a length and an index, {type(part).__name__} has not both: a stream cannot be mixed"
            problems.append(Problem(message, path=f"sources.{name}"))
    if problems:
        raise ConfigError(problems)
    for name, part in sources.items():
        if not len(part):
            raise DataError(f"{name}: there is no sample in it")
