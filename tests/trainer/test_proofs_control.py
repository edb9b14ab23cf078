"""Control flags from any event, callbacks that come and go, callbacks that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from ironloom import Trainer, TrainerCallback
from tiny import assert_same_weights, tiny_trainer, weights


class Once(TrainerCallback):
    """Sets a flag once, at the first such event after a step."""

    def __init__(self, event: str, flag: str, step: int = 2):
        self.done = False

        def handler(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= step and not self.done:
                self.done = True
                setattr(control, flag, True)

        setattr(self, event, handler)


class Acts(TrainerCallback):
    """Notes at which step something was logged, evaluated, saved."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"should_log": [], "should_evaluate": [], "should_save": []}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        if "learning_rate" in logs:
            self.seen["should_log"].append(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen["should_evaluate"].append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen["should_save"].append(state.global_step)


def run(folder: Path, *callbacks: Any, **args: Any) -> Trainer:
    options = {
        "logging_strategy": "no",
        "save_strategy": "no",
        "max_steps": -1,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 3,
        **args,
    }
    trainer: Trainer = tiny_trainer(folder, options={"callbacks": list(callbacks)}, **options)
    trainer.train()
    return trainer


#: Four steps an epoch. Where a flag that is set at the first such event after step 2 is acted on.
BOUNDARIES = {
    "on_step_begin": 3,
    "on_substep_end": 3,
    "on_pre_optimizer_step": 3,
    "on_optimizer_step": 3,
    "on_step_end": 2,
    "on_epoch_end": 4,
    "on_epoch_begin": 5,
}


@pytest.mark.parametrize("flag", ["should_log", "should_evaluate", "should_save"])
@pytest.mark.parametrize("event", BOUNDARIES)
def test_a_flag_of_any_event_acts_at_the_next_boundary_once(event: str, flag: str, tmp_path: Path) -> None:
    acts = Acts()
    run(tmp_path, Once(event, flag), acts)
    assert acts.seen.pop(flag) == [BOUNDARIES[event]]
    assert not any(acts.seen.values())


@pytest.mark.parametrize(
    ("cause", "flag", "steps"),
    [
        # What comes after the event within a boundary (log, evaluate, save) is done there, else at the next one.
        ("on_log", "should_evaluate", [2]),
        ("on_log", "should_save", [2]),
        ("on_log", "should_log", [2, 3, 4]),
        ("on_evaluate", "should_save", [2]),
        ("on_evaluate", "should_log", [3]),
        ("on_evaluate", "should_evaluate", [2, 3, 4]),
        ("on_save", "should_save", [2, 3, 4]),
        ("on_save", "should_evaluate", [3]),
        ("on_save", "should_log", [3]),
    ],
)
def test_a_flag_of_an_event_within_a_boundary(cause: str, flag: str, steps: list[int], tmp_path: Path) -> None:
    strategy = {"on_log": "logging", "on_evaluate": "eval", "on_save": "save"}[cause]
    args = {f"{strategy}_strategy": "steps", f"{strategy}_steps": 2, "max_steps": 4}
    acts = Acts()
    run(tmp_path, Once(cause, flag), acts, **args)
    assert acts.seen[flag] == steps


@pytest.mark.parametrize("event", [*BOUNDARIES, "on_log", "on_evaluate", "on_save"])
@pytest.mark.parametrize("flag", ["should_training_stop", "should_epoch_stop"])
def test_stopping_from_any_event(event: str, flag: str, tmp_path: Path) -> None:
    """The step is finished; what it asks for besides (here all three) is done; an epoch begins anew with its first batch."""
    always = {f"{name}_strategy": "steps" for name in ("logging", "eval", "save")} | {"eval_steps": 1, "save_steps": 1}
    acts = Acts()
    trainer = run(tmp_path, Once(event, flag), acts, **always)
    if flag == "should_epoch_stop":
        last = 8  # the plan is a number of steps
        assert trainer.state.epoch > 2.0 or event in ("on_epoch_end", "on_epoch_begin")
    else:
        last = BOUNDARIES.get(event, 2)
    assert trainer.state.global_step == last
    assert all(steps == list(range(1, last + 1)) for steps in acts.seen.values())


def test_a_returned_control_of_transformers_is_taken(tmp_path: Path) -> None:
    class Replace(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            return transformers.TrainerControl(should_training_stop=state.global_step == 2)

    assert run(tmp_path, Replace, save_strategy="epoch").state.global_step == 2


@pytest.mark.parametrize("returned", [True, 3, "stop", {"should_save": True}])
def test_a_callback_that_returns_something_else_is_named(returned: Any, tmp_path: Path) -> None:
    class Returns(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            return returned

    with pytest.raises(TypeError, match=r"Returns.on_step_end returned .*: a callback returns None or a TrainerControl"):
        run(tmp_path, Returns)


class Fails(TrainerCallback):
    def __init__(self, event: str, step: int):
        def handler(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise LookupError(f"of {event}")

        setattr(self, event, handler)


class Closes(TrainerCallback):
    closed = 0

    def close(self) -> None:
        self.closed += 1


EVENTS = ["on_train_begin", *BOUNDARIES, "on_log", "on_prediction_step", "on_evaluate", "on_save", "on_train_end"]


@pytest.mark.parametrize("event", EVENTS)
def test_an_error_in_a_callback_ends_the_run_and_leaves_all_in_order(event: str, tmp_path: Path) -> None:
    """The error itself arrives, other callbacks are closed, the folder is free, and the run goes on to the same bits."""
    args = {"eval_strategy": "steps", "eval_steps": 2, "logging_strategy": "steps", "save_strategy": "steps", "save_steps": 2}
    step = {"on_train_begin": 0, "on_train_end": 8, "on_epoch_end": 4, "on_epoch_begin": 4}.get(event, 6)
    closes = Closes()
    with pytest.raises(LookupError, match=f"of {event}"):
        run(tmp_path / "failed", Fails(event, step), closes, **args)
    assert closes.closed == 1
    whole = run(tmp_path / "whole", **args)
    again = run(tmp_path / "failed", resume_from_checkpoint=True, **args)
    assert again.state.global_step == 8
    assert_same_weights(weights(whole.model), weights(again.model))


def test_callbacks_that_come_and_go_while_training(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Late(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(("late", state.global_step))
            if state.global_step == 5:
                trainer.remove_callback(Late)

    class Early(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(("early", state.global_step))
            if state.global_step == 2:
                trainer.add_callback(Late)
                assert trainer.pop_callback(Early) is self

    trainer = tiny_trainer(tmp_path, options={"callbacks": [Early]})
    trainer.train()
    assert seen == [("early", 1), ("early", 2), ("late", 3), ("late", 4), ("late", 5)]
