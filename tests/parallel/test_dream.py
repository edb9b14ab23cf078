"""Steps of one's own in several processes: the losses, norms and weights of one process, whatever the samples are."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

from dreams import Duel, Pictures, Regression, Steady, configured, history, points
from ironloom import ConfigError, DreamTrainer
from ironloom.configs import DeviceParameters
from parallel.equality import differences, judge, largest
from parallel.modes import OWN_STEPS
from spawned import run
from spread import gated_decoder, weighted_rows, whole

EPOCHS = 7  # of three steps


class Ordered(Regression):
    """Shuffled by the trainer; without dropout, whose numbers differ from process to process."""

    dropout = 0.0


class Weighted(Ordered):
    """A loss over some of the samples, so that processes have different weights."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        counted = inputs[:, 0] > -0.5
        return F.mse_loss(self.net(inputs), targets, reduction="none").mean(1)[counted].sum(), counted.sum()


class OwnSharding(Pictures):
    """Shards by itself: each layer and the head."""

    def apply_fully_shard(self, config: dict[str, Any]) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in (*self.classifier.layers, self.classifier.head):
            fully_shard(layer, **config)
        fully_shard(self.classifier, **config)


class Result:
    """What one process of a run knows at its end."""

    def __init__(self, trainer: DreamTrainer):
        self.records = history(trainer)
        self.weights = {name: whole(value) for name, value in trainer.model.named_parameters()}
        self.counts = (trainer.state.global_step, trainer.state.num_input_tokens_seen, trainer.state.num_target_tokens_seen)
        self.sharded = sum("DTensor" in type(value.data).__name__ for value in trainer.model.parameters())


def trained(kind: type[DreamTrainer], make: Any, folder: str, args: dict[str, Any] | None = None, **training: Any) -> Result:
    # Distances from zero that rounding makes are not to become steps: eps is large, or there is no Adam.
    trainer = kind(configured(folder, args, make(param_dtype="float32"), **{"n_epochs": EPOCHS, **training}))
    trainer.fit()
    return Result(trainer)


def together(kind: type[DreamTrainer], make: Any, nproc: int = 2, folder: str | None = None, **options: Any) -> list[Result]:
    with tempfile.TemporaryDirectory() as own:
        return run(lambda: trained(kind, make, folder or own, **options), nproc, timeout=100)


def assert_equal(alone: Result, results: list[Result]) -> None:
    """Records, counts and weights, within 1e-5."""
    for result in results:
        assert result.counts == alone.counts
        assert len(result.records) == len(alone.records)
        for mine, theirs in zip(result.records[:-1], alone.records[:-1], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5)
        difference = math.sqrt(sum(float((result.weights[name] - value).square().sum()) for name, value in alone.weights.items()))
        assert difference <= 1e-5 * math.sqrt(sum(float(value.square().sum()) for value in alone.weights.values()))


KINDS = {
    "regression": Ordered,
    "own loader": Steady,
    "sums and weights": Weighted,
    "adversaries": Duel,
    "classifier": Pictures,
    "own sharding": OwnSharding,
}
WAYS = {
    "own steps, data parallel": DeviceParameters.DDP,
    "own steps, sharded": DeviceParameters.FSDP,
    "own steps, hybrid sharded": lambda **options: DeviceParameters.HSDP(dp_shard=2, **options),
}
CASES = [
    pytest.param(name, model, marks=[pytest.mark.slow] * (model in mode.slow)) for name, mode in OWN_STEPS.items() for model in mode.models
]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_mode_of_own_steps(name: str, model: str, record_property: pytest.RecordProperty, tmp_path: Path) -> None:
    kind, mode = KINDS[model], OWN_STEPS[name]
    alone = trained(kind, DeviceParameters, str(tmp_path))
    assert alone.counts[0] == 3 * EPOCHS and all("loss" in record or "eval_loss" in record for record in alone.records[:-1])
    results = together(kind, WAYS[name], mode.nproc)
    assert_equal(alone, results)
    assert all(bool(result.sharded) == ("dp_shard" in mode.sizes) for result in results)
    norm = "judge_norm" if kind is Duel else "grad_norm"
    expected = (alone.records[:-1], alone.weights)
    found = largest(differences(expected, (result.records[:-1], result.weights), norm) for result in results)
    judge(name, {model: found}, record_property)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Sharded over two processes until within an epoch, then in one; and the same bits with two again."""
    alone = trained(Pictures, DeviceParameters, str(tmp_path / "alone"))
    folder = str(tmp_path / "moved")
    together(Pictures, DeviceParameters.FSDP, folder=folder, args={"exit_steps": 8})
    moved = trained(Pictures, DeviceParameters, folder)
    assert_equal(alone, [moved])
    folder = str(tmp_path / "same")
    whole_run = together(Pictures, DeviceParameters.FSDP)
    together(Pictures, DeviceParameters.FSDP, folder=folder, args={"exit_steps": 8})
    parts = together(Pictures, DeviceParameters.FSDP, folder=folder)
    for mine, theirs in zip(parts, whole_run, strict=True):
        assert mine.records[:-1] == theirs.records[:-1]
        assert all(torch.equal(mine.weights[name], value) for name, value in theirs.weights.items())


class Labelled(DreamTrainer):
    """The default step on labels that do not count alike."""

    def configure_models(self) -> None:
        self.net = gated_decoder()  # without biases of keys, whose gradient is nothing but rounding

    def configure_dataloaders(self) -> Any:
        return weighted_rows(23), weighted_rows(7, seed=1)

    def pre_train_step(self, batch: Any, batch_idx: int) -> None:
        assert "loss_weights" in batch


@pytest.mark.parametrize("way", [DeviceParameters.DDP, pytest.param(DeviceParameters.FSDP, marks=pytest.mark.slow)])
def test_weights_of_labels_are_summed_over_processes(way: Any, tmp_path: Path) -> None:
    alone = trained(Labelled, DeviceParameters, str(tmp_path))
    assert_equal(alone, together(Labelled, way))


class Parted(Ordered):
    """A loader whose sampler parts the samples."""

    def configure_dataloaders(self) -> Any:
        place = self.team.place
        sampler: Any = DistributedSampler(points(22), place.data_size, place.data_rank, shuffle=True)  # type: ignore[arg-type]
        return DataLoader(points(22), batch_size=4 // place.data_size, sampler=sampler), None


class Wrapped(Ordered):
    def apply_replicate(self, mesh: Any) -> None:
        self.wrapper = nn.parallel.DistributedDataParallel(self.net)
        self.net.add_module("copy", self.wrapper)


class Unsharded(Ordered):
    def apply_fully_shard(self, config: dict[str, Any]) -> None:
        pass


class Ununited(Ordered):
    def configure_metrics(self) -> None:
        self.seen = Seen()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.update()


class Seen:
    def update(self) -> None: ...

    def compute(self) -> float:
        return 1.0

    def reset(self) -> None: ...


def refused(kind: type[DreamTrainer], make: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained(kind, make, folder)
        except ConfigError as error:
            return str(error)
    return "nothing"


def test_a_sampler_of_the_users_own_parts_the_samples() -> None:
    one, other = together(Parted, DeviceParameters.DDP, n_epochs=1)
    assert one.records[:-1] == other.records[:-1]
    assert one.counts == (3, 22, 22)


@pytest.mark.parametrize(
    ("kind", "make", "said"),
    [
        (Wrapped, DeviceParameters.DDP, "leave the wrapper out"),
        (Unsharded, DeviceParameters.FSDP, "left net whole"),
        (Ununited, DeviceParameters.DDP, "merge_state"),
        (Ordered, lambda **options: DeviceParameters(context_parallel_size="auto", dp_replicate=1, **options), "cuts sequences"),
        (Ordered, lambda **options: DeviceParameters(tensor_parallel_size="auto", dp_replicate=1, **options), "no plan"),
    ],
)
def test_what_cannot_be_is_refused_in_every_process(kind: Any, make: Any, said: str) -> None:
    assert all(said in text for text in run(lambda: refused(kind, make), 2))
