"""SanityCheck: validation is tried before the first step, by one process and by several, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import TrainerCallback
from ironloom.callbacks import SanityCheck
from ironloom.errors import DataError
from spawned import run
from spread import decoder, spread_over
from tiny import assert_same_weights, records, tiny_lm, tiny_trainer, uneven_samples, weights


class Count(TrainerCallback):
    def __init__(self) -> None:
        self.modes: list[bool] = []

    def look(self, module: torch.nn.Module, inputs: Any) -> None:
        self.modes.append(module.training)


def test_a_loss_that_is_not_finite_is_found_before_the_first_step(tmp_path: Path) -> None:
    model = tiny_lm()
    count = Count()
    model.register_forward_pre_hook(count.look)
    trainer = tiny_trainer(tmp_path, model, options={"callbacks": [SanityCheck(2)]}, max_steps=1, per_device_eval_batch_size=1)
    trainer.train()
    assert count.modes == [False, False, True], "two batches of six, in evaluation mode, then the step"
    torch.nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(DataError, match="the loss of validation batch 0 is nan before the first step"):
        trainer.train()
    assert trainer.state.global_step == 0 and model.training


def test_a_run_that_goes_on_is_not_checked(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_lm(), max_steps=2).train()
    model, count = tiny_lm(), Count()
    model.register_forward_pre_hook(count.look)
    tiny_trainer(tmp_path, model, options={"callbacks": [SanityCheck(2)]}, max_steps=3, resume_from_checkpoint=True).train()
    assert count.modes == [True]


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    plain = tiny_trainer(tmp_path / "plain")
    checked = tiny_trainer(tmp_path / "checked", options={"callbacks": [SanityCheck(2)]})
    for trainer in (plain, checked):
        trainer.train()
    assert records(plain.state.log_history) == records(checked.state.log_history)
    assert_same_weights(weights(plain.model), weights(checked.model))


def checked(folder: Path, parameters: Any, bad: bool, samples: int, **args: Any) -> str:
    """What is told of a run whose model is ``bad`` or not; nothing, if it trains."""
    model = decoder()
    if bad:
        torch.nn.init.constant_(next(model.parameters()), float("inf"))
    options = {"callbacks": [SanityCheck(3)], "device_parameters": parameters}
    trainer = tiny_trainer(folder, model, None, uneven_samples(samples), options=options, max_steps=1, save_strategy="no", **args)
    if not bad:
        trainer.train()
        return ""
    with pytest.raises(DataError) as found:
        trainer.train()
    return str(found.value)


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("parameters", [None, spread_over(context_parallel_size=2)])
def test_processes_that_have_nothing_of_a_batch_take_part(parameters: Any, bad: bool, tmp_path: Path) -> None:
    """A validation set of one sample: the other process has nothing of its batch."""
    one, other = run(lambda: checked(tmp_path, parameters, bad, samples=1), 2)
    assert one == other
    assert ("validation batch 0 is nan" in one) == bad


@pytest.mark.parametrize("bad", [False, True])
def test_so_do_those_that_gather_weights_from_each_other(bad: bool, tmp_path: Path) -> None:
    """Three samples in batches of two: the second process has nothing of the second batch."""
    one, other = run(lambda: checked(tmp_path, spread_over(dp_shard=2), bad, samples=3, per_device_eval_batch_size=1), 2)
    assert one == other and ("validation batch 0 is nan" in one) == bad
