"""``report_to`` adds the trackers that it names, where users of transformers expect them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironloom.callbacks import TBLogger
from ironloom.errors import ConfigError
from tiny import assert_same_weights, tiny_trainer, weights


def test_tensorboard_gets_the_records_of_the_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    silent = tiny_trainer(tmp_path / "silent")
    silent.train()
    trainer = tiny_trainer(tmp_path / "run", report_to=["tensorboard"])
    trainer.train()
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    shown = [event.value for event in events.Scalars("train/loss")]
    assert shown == pytest.approx([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert_same_weights(weights(trainer.model), weights(silent.model))


def test_none_and_nothing_add_none(tmp_path: Path) -> None:
    for value in ("none", [], ["none"]):
        assert not [
            callback for callback in tiny_trainer(tmp_path, report_to=value).callback_handler.callbacks if isinstance(callback, TBLogger)
        ]


def test_a_tracker_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="report_to"):
        tiny_trainer(tmp_path, report_to="tensorbord")
