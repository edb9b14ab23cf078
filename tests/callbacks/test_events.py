"""Events fire where transformers fires them, with its arguments; control flags act at the next boundary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import ironloom
from ironloom.callbacks import EVENTS, CallbackHandler, ProgressCallback, TrainerControl, TrainerState
from tiny import tiny_lm, uneven_samples


class Recorder(transformers.TrainerCallback):
    """Notes each event with the step and what it was called with."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.arguments: dict[str, set[str]] = {}


def _record(event: str) -> Any:
    def handler(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append((event, state.global_step))
        self.arguments.setdefault(event, set()).update(kwargs)

    return handler


for _event in EVENTS:
    setattr(Recorder, _event, _record(_event))


def test_the_events_are_those_of_transformers() -> None:
    assert sorted(EVENTS) == sorted(name for name in dir(transformers.TrainerCallback) if name.startswith("on_"))
    assert len(EVENTS) == 16


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


SCHEDULES = [
    {"max_steps": 5, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 3},
    {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"},
    {"num_train_epochs": 1, "gradient_accumulation_steps": 2, "logging_steps": 1, "save_strategy": "no", "logging_first_step": True},
    {"num_train_epochs": 2, "gradient_accumulation_steps": 4, "eval_strategy": "epoch", "save_strategy": "no", "logging_steps": 1},
    {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "logging_steps": 4, "save_steps": 4},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_order_equals_transformers(schedule: dict[str, Any], tmp_path: Path) -> None:
    """Ten samples, batches of two: the same events at the same steps, with at least the same keywords."""
    args = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, **schedule}
    samples = uneven_samples(10)
    theirs, ours = Recorder(), Recorder()
    their_args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"), report_to="none", use_cpu=True, disable_tqdm=True, **args
    )
    transformers.Trainer(llama(), their_args, train_dataset=samples, eval_dataset=samples[:4], callbacks=[theirs]).train()
    our_args = {"output_dir": tmp_path / "ours", "disable_tqdm": True, **args}
    ironloom.Trainer(llama(), our_args, train_dataset=samples, eval_dataset=samples[:4], callbacks=[ours]).train()
    if schedule.get("max_steps") == 5:
        # The last record of transformers is of step 4; ours is of step 5, so that no loss stays unlogged.
        ours.events.remove(("on_log", 5))
    assert ours.events == theirs.events
    for event, names in theirs.arguments.items():
        assert names <= ours.arguments[event], f"{event} lacks {names - ours.arguments[event]}"


def test_predict_and_evaluate_fire_theirs(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = ironloom.Trainer(tiny_lm(), {"output_dir": tmp_path}, callbacks=[recorder])
    trainer.predict(uneven_samples(4))
    trainer.evaluate(uneven_samples(4))
    names = [event for event, _ in recorder.events]
    assert names == ["on_init_end", "on_prediction_step", "on_predict", "on_prediction_step", "on_log", "on_evaluate"]
    assert "metrics" in recorder.arguments["on_predict"]


def run(tmp_path: Path, *callbacks: Any, **args: Any) -> ironloom.Trainer:
    options = {"output_dir": tmp_path, "disable_tqdm": True, "per_device_train_batch_size": 2, "save_strategy": "no", **args}
    trainer = ironloom.Trainer(
        tiny_lm(), options, train_dataset=uneven_samples(10), eval_dataset=uneven_samples(4), callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


def at_step(step: int, flag: str, event: str = "on_step_end") -> Any:
    class Switch(ironloom.TrainerCallback):
        pass

    def handler(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            setattr(control, flag, True)

    setattr(Switch, event, handler)
    return Switch()


def test_should_log_evaluate_and_save_act_at_once(tmp_path: Path) -> None:
    recorder = Recorder()
    flags = ("should_log", "should_evaluate", "should_save")
    run(tmp_path, *(at_step(3, flag) for flag in flags), recorder, num_train_epochs=1)
    for event in ("on_evaluate", "on_save"):
        assert [step for name, step in recorder.events if name == event] == [3]
    assert (tmp_path / "checkpoints" / "checkpoint-3").is_dir()


def test_should_training_stop_ends_after_the_step(tmp_path: Path) -> None:
    assert run(tmp_path, at_step(3, "should_training_stop")).state.global_step == 3


def test_should_epoch_stop_leaves_the_epoch_only(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = run(tmp_path, at_step(2, "should_epoch_stop"), recorder, num_train_epochs=3, max_steps=9)
    assert [step for name, step in recorder.events if name == "on_epoch_end"] == [2, 7, 9]
    assert trainer.state.global_step == 9


def test_a_returned_control_replaces_the_old(tmp_path: Path) -> None:
    class Replace(ironloom.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> TrainerControl:
            return TrainerControl(should_training_stop=state.global_step == 2)

    assert run(tmp_path, Replace()).state.global_step == 2


def test_early_stopping_of_transformers_works(tmp_path: Path) -> None:
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=2)
    trainer = run(
        tmp_path,
        stop,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=0.05,
        num_train_epochs=10,
    )
    assert trainer.state.global_step < 50


class Counter(ironloom.TrainerCallback):
    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": torch.tensor(float(self.steps))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert float(state["mean"]) == state["steps"]
        self.steps = state["steps"]


def test_callback_states_are_saved_and_restored(tmp_path: Path) -> None:
    counter, other = Counter(), Counter()
    run(tmp_path, counter, other, max_steps=3, save_strategy="steps", save_steps=3)
    again = Counter()
    run(tmp_path, again, max_steps=5, save_strategy="steps", save_steps=3, resume_from_checkpoint=True)
    assert again.steps == 5


def test_add_pop_remove(tmp_path: Path) -> None:
    trainer = ironloom.Trainer(tiny_lm(), {"output_dir": tmp_path})
    counter = Counter()
    trainer.add_callback(counter)
    trainer.add_callback(Recorder)
    assert trainer.pop_callback(Counter) is counter
    assert trainer.pop_callback(counter) is None
    assert isinstance(trainer.pop_callback(Recorder), Recorder)
    assert trainer.remove_callback(ProgressCallback) is None
    assert trainer.pop_callback(ProgressCallback) is None


def test_events_nobody_handles_cost_nothing() -> None:
    """Empty methods of either base class are not called at all."""
    handler = CallbackHandler([ironloom.TrainerCallback(), transformers.TrainerCallback(), transformers.EarlyStoppingCallback(1)])
    assert [event for event in EVENTS if handler.handles(event)] == ["on_train_begin", "on_train_end", "on_evaluate"] or [
        event for event in EVENTS if handler.handles(event)
    ] == ["on_train_begin", "on_evaluate"]


def test_callbacks_need_no_base_class(tmp_path: Path) -> None:
    class Plain:
        seen = 0

        def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
            Plain.seen += 1

    run(tmp_path, Plain, max_steps=2)
    assert Plain.seen == 2


def test_pushing_fires_its_event_before_the_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    recorder, uploads = Recorder(), []

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            assert token == "secret"

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            assert private and exist_ok

        def upload_folder(self, **arguments: Any) -> Any:
            uploads.append((arguments["repo_id"], [event for event, _ in recorder.events if event == "on_push_begin"]))
            assert (Path(arguments["folder_path"]) / "model.safetensors").exists()
            assert "checkpoints/*" in arguments["ignore_patterns"]
            return huggingface_hub.CommitInfo(
                commit_url="https://huggingface.co/me/model/commit/1", commit_message="", commit_description="", oid="1"
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    trainer = ironloom.Trainer(tiny_lm(), {"output_dir": tmp_path}, callbacks=[recorder])
    assert trainer.push_to_hub("me/model", token="secret").endswith("/commit/1")
    assert uploads == [("me/model", ["on_push_begin"])]


def test_pushing_without_a_network_says_where_the_model_is(tmp_path: Path) -> None:
    trainer = ironloom.Trainer(tiny_lm(), {"output_dir": tmp_path})
    with pytest.raises(ironloom.ResourceError, match="could not be uploaded"):
        trainer.push_to_hub("me/model")
    assert trainer.model_exists(tmp_path)
