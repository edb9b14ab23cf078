"""Training with Accelerate computes what training without it does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs

from accelerating import Made, accel_trainer, accelerated, on_cpu, without
from ironloom.errors import ConfigError, DataError
from parallel.equality import check
from parallel.modes import ACCELERATED
from spawned import run
from spread import largest_error, train
from tiny import TinyLM, losses, tiny_lm, uneven_samples

#: Accelerators of a user's own, with all that was ever counted twice.
GIVEN: dict[str, Made] = {
    "plain": on_cpu(),
    "accumulates too": on_cpu(gradient_accumulation_steps=2),
    "says its precision": on_cpu(gradient_accumulation_steps=2, mixed_precision="no"),
    "small buckets, views": on_cpu(kwargs_handlers=[DistributedDataParallelKwargs(bucket_cap_mb=1, gradient_as_bucket_view=True)]),
}


@pytest.mark.parametrize("name", [name for name, mode in ACCELERATED.items() if mode.quick])
def test_a_mode(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, ACCELERATED[name].quick, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mode in ACCELERATED.items() if mode.slow])
def test_a_mode_on_every_other_model(name: str, record_property: pytest.RecordProperty) -> None:
    check(name, ACCELERATED[name].slow, record_property)


def test_one_process_computes_the_same_bits() -> None:
    assert largest_error(train(tiny_lm, None, 1), accelerated(tiny_lm, 1)) == 0


@pytest.mark.parametrize("name", ["accumulates too", pytest.param("plain", marks=pytest.mark.slow)])
def test_an_accelerator_of_ones_own_changes_nothing(name: str) -> None:
    alone = train(tiny_lm, None, 1)
    for result in run(lambda: accelerated(tiny_lm, 2, GIVEN[name]), 2):
        assert largest_error(alone, result) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("size", [1, 4])
def test_any_accelerator_changes_nothing(name: str, size: int) -> None:
    alone = train(tiny_lm, None, 1)
    for result in run(lambda: accelerated(tiny_lm, size, GIVEN[name]), size):
        assert largest_error(alone, result) < 1e-5


def test_dropout_draws_what_it_draws_without_accelerate() -> None:
    def model() -> TinyLM:
        return tiny_lm(dropout=0.3)

    for one, other in zip(run(lambda: without(model, 2), 2), run(lambda: accelerated(model, 2), 2), strict=True):
        assert largest_error(one, other) < 1e-6


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_is_that_of_the_other_trainer(half: str) -> None:
    """Asked for in the arguments, in ``accelerator_args``, or of an Accelerator of one's own; fp16 has its loss scaler on the CPU too."""

    def all_ways() -> Any:
        one = without(tiny_lm, 2, **{half: True})
        ways = [
            accelerated(tiny_lm, 2, **{half: True}),
            accelerated(tiny_lm, 2, accelerator_args={"mixed_precision": half}),
            accelerated(tiny_lm, 2, on_cpu(mixed_precision=half, gradient_accumulation_steps=2)),
        ]
        return [largest_error(one, way) for way in ways], one.losses, without(tiny_lm, 2).losses

    for errors, losses_of_half, losses_of_float in run(all_ways, 2):
        assert max(errors) < 1e-6
        assert losses_of_half != losses_of_float


def test_a_loss_scaler_skips_what_overflows_in_all_processes() -> None:
    def train_one() -> Any:
        handlers = [GradScalerKwargs(init_scale=2.0**40)]
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"fp16": True, "accelerator_args": {"kwargs_handlers": handlers}, "per_device_train_batch_size": 1}
            trainer = accel_trainer(Path(folder), **arguments)
            trainer.train()
            return trainer._engine.scaler.get_scale(), trainer.model.state_dict(), losses(trainer.state.log_history)

    one, other = run(train_one, 2)
    assert one[0] == other[0] < 2.0**40
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert one[2][-1][1] < one[2][0][1]


class Read:
    """Data that knows how many samples were read of it."""

    def __init__(self, failing: int | None = None):
        self.samples, self.count, self.failing = uneven_samples(23), 0, failing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        if self.failing is not None and self.count >= self.failing:
            raise OSError("the disk is gone")
        return self.samples[index]


@pytest.mark.parametrize("way", ["accelerator_args", pytest.param("accelerator", marks=pytest.mark.slow)])
def test_dispatched_batches_are_read_by_one_and_are_the_same(way: str) -> None:
    from accelerate.utils import DataLoaderConfiguration

    def dispatched() -> Any:
        given = on_cpu(dataloader_config=DataLoaderConfiguration(dispatch_batches=True)) if way == "accelerator" else None
        arguments = {} if given else {"accelerator_args": {"device_placement": True, "split_batches": False, "dispatch_batches": True}}
        with tempfile.TemporaryDirectory() as folder:
            trainer = accel_trainer(Path(folder), accelerator=given, per_device_train_batch_size=2, **arguments)
            trainer.train_dataset = data = Read()
            trainer.train()
            return losses(trainer.state.log_history), data.count, trainer.evaluate()["eval_loss"]

    alone = train(tiny_lm, None, 1)
    (one, read, evaluation), (other, nothing, _) = run(dispatched, 2)
    assert one == other
    assert [loss for _, loss in one] == pytest.approx([loss for _, loss in alone.losses], rel=1e-5)
    assert evaluation == pytest.approx(alone.evaluation, rel=1e-5)
    assert (read > 20 * 4, nothing) == (True, 0)


def test_data_that_cannot_be_read_ends_all_who_wait_for_it() -> None:
    def failing() -> str:
        with tempfile.TemporaryDirectory() as folder:
            trainer = accel_trainer(Path(folder), accelerator_args={"dispatch_batches": True}, per_device_train_batch_size=1)
            trainer.train_dataset = Read(failing=9)
            with pytest.raises(DataError) as raised:
                trainer.train()
            return str(raised.value)

    one, other = run(failing, 2)
    assert "the disk is gone" in one
    assert "the first process, which reads the data for all, failed" in other and "the disk is gone" in other


class Unused(TinyLM):
    """Has a weight that nothing is computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = torch.nn.Linear(3, 3)


def unused() -> Unused:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Unused()


def test_weights_without_a_gradient_are_named_or_can_be_allowed() -> None:
    def refused() -> str:
        with pytest.raises(ConfigError) as raised:
            accelerated(unused, 2)
        return str(raised.value)

    def allowed() -> Any:
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        return accelerated(unused, 2, accelerator_args={"kwargs_handlers": handlers})

    for message in run(refused, 2):
        assert "spare.weight" in message and "find_unused_parameters=True" in message
    alone = train(unused, None, 1)
    for result in run(allowed, 2):
        assert largest_error(alone, result) < 1e-5


def test_a_batch_that_some_have_nothing_of_or_without_targets() -> None:
    """Of 17 samples in batches of 4 the last has one; and the samples of one process have no targets at all."""

    def samples() -> Any:
        made = uneven_samples(17)
        for sample in made[::3]:
            sample["labels"][:] = -100
        return made

    def one(size: int, **options: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            trainer = accel_trainer(Path(folder), per_device_train_batch_size=4 // size, gradient_accumulation_steps=1, **options)
            trainer.train_dataset = samples()
            trainer.train()
            return [loss for _, loss in losses(trainer.state.log_history)]

    alone = one(1)
    for history in run(lambda: one(4), 4):
        assert history == pytest.approx(alone, rel=1e-5)
