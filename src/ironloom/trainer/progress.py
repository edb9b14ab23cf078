"""Where a run stands beyond its public state: the place in the data and the sums behind the logged losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.data.mixture import Counts


@dataclass
class Progress:
    """Position and running sums. Saved in every checkpoint.

    Attributes:
        epoch: The running epoch, from 0.
        samples: Samples of that epoch, over all ranks, that whole optimizer steps have used.
        window_loss: Loss sum since the last log record.
        window_weight: Its weight, in targets.
        window_steps: Optimizer steps in it.
        window_sums: What the objective reported in it beside the loss, by name; the weight is the same.
        total_loss: Loss sum of the whole run.
        total_weight: Its weight.
        skipped_steps: Steps whose update was left out because the loss was not finite.
        num_samples: Samples of an epoch; None if the data has no length.
        mixture: What is mixed and how, see ``Mixture.proportions``; empty for other data.
        source_samples: Samples of the whole run by the source of a mixture, over all ranks, up to ``counted``.
        source_tokens: Input tokens likewise, without padding; of sources that know their lengths.
        counted: Samples of the running epoch that both of them hold.
        boundary_open: Whether the loop was left before all that this step asked for was done.
        epoch_open: Whether the epoch has begun and its end was not reached yet.
    """

    epoch: int = 0
    samples: int = 0
    window_loss: float = 0.0
    window_weight: float = 0
    window_steps: int = 0
    window_sums: dict[str, float] = field(default_factory=dict)
    total_loss: float = 0.0
    total_weight: float = 0
    skipped_steps: int = 0
    num_samples: int | None = None
    mixture: str = ""
    source_samples: dict[str, int] = field(default_factory=dict)
    source_tokens: dict[str, int] = field(default_factory=dict)
    counted: int = 0
    boundary_open: bool = True
    epoch_open: bool = False

    def add(self, loss_sum: float, weight: float) -> None:
        """Count one optimizer step."""
        self.window_loss += loss_sum
        self.window_weight += weight
        self.window_steps += 1
        self.total_loss += loss_sum
        self.total_weight += weight

    def report(self, sums: dict[str, float]) -> None:
        """Count what the objective reported of an optimizer step beside the loss."""
        for name, value in sums.items():
            self.window_sums[name] = self.window_sums.get(name, 0.0) + value

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.samples = self.counted = 0

    def take_window(self) -> float | None:
        """The mean loss since the last call, None if nothing was trained; starts a new window."""
        mean = self.window_loss / self.window_weight if self.window_weight else None
        self.window_loss, self.window_weight, self.window_steps = 0.0, 0, 0
        return mean

    def take_reported(self) -> dict[str, float]:
        """The means of what was reported in the window, which ends with :meth:`take_window`."""
        sums, self.window_sums = self.window_sums, {}
        return {name: value / self.window_weight for name, value in sums.items()} if self.window_weight else {}

    def count_sources(self, counter: Callable[[int, int, int], Counts] | None) -> None:
        """Count what each source has given since the last call, within the running epoch.

        Args:
            counter: Tells it for the positions from one to another of an epoch; None: there are no sources.
        """
        if counter is None or self.counted >= self.samples:
            return
        for name, (samples, tokens) in counter(self.epoch, self.counted, self.samples).items():
            self.source_samples[name] = self.source_samples.get(name, 0) + samples
            if tokens is not None:
                self.source_tokens[name] = self.source_tokens.get(name, 0) + tokens
        self.counted = self.samples

    def sources(self) -> dict[str, int]:
        """``samples_NAME`` and ``tokens_NAME`` of each source of a mixture, for a record."""
        found = {f"samples_{name}": number for name, number in self.source_samples.items()}
        return found | {f"tokens_{name}": number for name, number in self.source_tokens.items()}

    @property
    def training_loss(self) -> float:
        """Mean loss over all targets of the run."""
        return self.total_loss / self.total_weight if self.total_weight else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return dataclasses.asdict(self)
