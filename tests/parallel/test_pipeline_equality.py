"""A model in stages trains as it does in one process: 20 steps, uneven masks and lengths, two batches a step."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from ironloom.settings.pipeline import SCHEDULES
from parallel.pipelines import deviation, numbers, one_process, pipeline_trainer
from spawned import run

NEAR = 1e-5

one = functools.cache(one_process)


def _train(kinds: tuple[str, ...], folder: str, schedule: str, changes: dict[str, Any]) -> list[list[dict[str, float]]]:
    histories = []
    for kind in kinds:
        trainer = pipeline_trainer(kind, folder, schedule, **changes)
        trainer.train()
        histories.append(numbers(trainer))
    return histories


def _check(kinds: tuple[str, ...], folder: Path, schedule: str, nproc: int = 2, **changes: Any) -> None:
    reference = [one(kind, **{key: value for key, value in changes.items() if key == "max_steps"}) for kind in kinds]
    for histories in run(_train, nproc, kinds, str(folder), schedule, changes):
        for kind, expected, found in zip(kinds, reference, histories, strict=True):
            assert deviation(expected, found) < NEAR, kind


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_tied_and_untied_models_as_one_process(schedule: str, tmp_path: Path) -> None:
    _check(("tied", "untied"), tmp_path, schedule)


@pytest.mark.parametrize("schedule", ["ScheduleGPipe", "ScheduleZBVZeroBubble"])
def test_models_of_transformers_train_as_in_one_process(schedule: str, tmp_path: Path) -> None:
    _check(("llama", "gpt2"), tmp_path, schedule)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_every_kind_of_model(schedule: str, tmp_path: Path) -> None:
    _check(("post_ln", "llama", "llama_tied", "gpt2"), tmp_path, schedule)


def test_layers_that_are_computed_again_give_the_same(tmp_path: Path) -> None:
    _check(("tied",), tmp_path, "ScheduleInterleavedZeroBubble", checkpoint_sequential=True)


def test_two_pipelines_share_the_data(tmp_path: Path) -> None:
    changes = {"pipeline_parallel_size": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "max_steps": 20}
    reference = one("tied", per_device_eval_batch_size=6)
    for (history,) in run(_train, 4, ("tied",), str(tmp_path), "Schedule1F1B", changes):
        assert deviation(reference, history) < NEAR


def test_four_processes_hold_four_stages(tmp_path: Path) -> None:
    _check(("tied",), tmp_path, "Schedule1F1B", nproc=4, split_spec={f"model.layers.{index}": "end" for index in (0, 1, 3)})
