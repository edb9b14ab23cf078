"""What several processes save is one checkpoint and one model, and any number of processes goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom.weights import load_weights
from spawned import run
from spread import decoder, spread_over, whole
from tiny import losses, tiny_trainer, uneven_samples

MODES = {
    "one": (1, None, 1),
    "dp": (2, {"dp_replicate": 2}, 2),
    "fsdp": (2, {"dp_shard": 2}, 2),
    "tp": (2, {"tensor_parallel_size": 2}, 1),
    "fsdp x tp": (4, {"dp_shard": 2, "tensor_parallel_size": 2}, 2),
}


def train(folder: Path, mode: str, steps: int, resume: bool, publish: Path | None = None) -> Any:
    """Losses by step, full weights, full moments, by this mode's processes."""
    nproc, sizes, data_size = MODES[mode]

    def work() -> Any:
        trainer = tiny_trainer(
            folder,
            decoder(),
            uneven_samples(40),
            options={"device_parameters": spread_over(**sizes) if sizes else None},
            per_device_train_batch_size=4 // data_size,
            max_steps=8,
            exit_steps=steps,
            lr_scheduler_type="constant",
            resume_from_checkpoint=resume,
            save_strategy="steps",
            save_steps=100,
            # Where a gradient is zero but for rounding (the bias of keys), Adam would make steps of it.
            adam_epsilon=1e-4,
        )
        trainer.train()
        if publish is not None:
            trainer.save_model(publish)
        state = trainer.optimizer.state
        moments = {name: whole(state[parameter]["exp_avg"]) for name, parameter in trainer.model.named_parameters()}
        weights = {name: whole(parameter) for name, parameter in trainer.model.named_parameters()}
        return losses(trainer.state.log_history), weights, moments

    return work() if nproc == 1 else run(work, nproc)[-1]


PAIRS = [("one", "fsdp"), ("fsdp", "one"), ("dp", "tp"), ("tp", "fsdp x tp")]
SLOW_PAIRS = [("one", "dp"), ("dp", "one"), ("fsdp", "tp"), ("tp", "dp"), ("one", "tp"), ("tp", "one"), ("fsdp x tp", "dp")]


@pytest.mark.parametrize(("before", "after"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_PAIRS)])
def test_another_topology_goes_on_with_the_same_numbers(before: str, after: str, tmp_path: Path) -> None:
    history, weights, moments = train(tmp_path / "whole", "one", 8, resume=False)
    _, _, saved_moments = train(tmp_path / "parts", before, 4, resume=False)
    resumed, resumed_weights, resumed_moments = train(tmp_path / "parts", after, 8, resume=True)
    assert saved_moments.keys() == moments.keys()
    assert [step for step, _ in resumed] == [step for step, _ in history]
    assert [loss for _, loss in resumed] == pytest.approx([loss for _, loss in history], rel=1e-5)
    for name, moment in moments.items():
        assert torch.allclose(resumed_moments[name], moment, rtol=1e-4, atol=1e-6), name
        assert torch.allclose(resumed_weights[name], weights[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("mode", ["fsdp", "tp"])
def test_the_same_topology_goes_on_bit_for_bit(mode: str, tmp_path: Path) -> None:
    history, weights, moments = train(tmp_path / "whole", mode, 8, resume=False)
    train(tmp_path / "parts", mode, 4, resume=False)
    resumed, resumed_weights, resumed_moments = train(tmp_path / "parts", mode, 8, resume=True)
    assert resumed == history
    assert all(torch.equal(resumed_weights[name], weights[name]) for name in weights)
    assert all(torch.equal(resumed_moments[name], moments[name]) for name in moments)


@pytest.mark.parametrize("mode", ["dp", "fsdp x tp"])
def test_the_model_of_several_processes_is_a_model(mode: str, tmp_path: Path) -> None:
    _, weights, _ = train(tmp_path / "run", mode, 2, resume=False, publish=tmp_path / "model")
    model = decoder()
    load_weights(tmp_path / "model", model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert (tmp_path / "model" / "config.json").exists()
