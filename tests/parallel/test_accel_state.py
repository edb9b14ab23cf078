"""A trainer with Accelerate leaves a process as it found it, and uses an Accelerator only as far as that cannot change a run."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    AutocastKwargs,
    DataLoaderConfiguration,
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    ProfileKwargs,
)

from accelerating import accel_trainer, on_cpu
from ironloom import AccelTrainer, AccelTrainingArguments, ConfigError, Trainer, TrainerCallback, config
from ironloom.settings.accel import KNOWN, REFUSED, TAKEN
from spawned import run
from spread import spread_over
from tiny import losses, tiny_lm


@pytest.fixture(autouse=True)
def clean_state() -> Any:
    """These tests make Accelerators of their own in this process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def states() -> list[dict[str, Any]]:
    return [dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)]


def history(trainer: Any) -> list[tuple[float, float]]:
    trainer.train()
    return losses(trainer.state.log_history)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def work() -> Any:
        before = states(), dict(os.environ), torch.get_num_threads()
        trainer = accel_trainer(tmp_path, per_device_train_batch_size=2, bf16=True, max_steps=2)
        trainer.train()
        trainer.evaluate()
        return before == (states(), dict(os.environ), torch.get_num_threads())

    assert work() and all(run(work, 2))


def test_trainers_of_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    """One in half precision, one that accumulates otherwise, one without Accelerate, the first again; and the user's own at last."""

    def work() -> Any:
        options = {"per_device_train_batch_size": 1, "max_steps": 3}
        first = accel_trainer(tmp_path, bf16=True, **options)
        one = history(first)
        accel_trainer(tmp_path, fp16=True, **options).train()
        other = history(accel_trainer(tmp_path, gradient_accumulation_steps=4, **options))
        plain = history(accel_trainer(tmp_path, cls=Trainer, gradient_accumulation_steps=4, **options))
        assert [loss for _, loss in other] == pytest.approx([loss for _, loss in plain], rel=1e-6)
        assert history(accel_trainer(tmp_path, bf16=True, **options)) == one
        first.train()
        mine = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        return mine.num_processes

    assert run(work, 2) == [2, 2]


def test_an_accelerator_of_the_users_is_not_joined_unasked(tmp_path: Path) -> None:
    mine = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=7)
    before = states()
    plain = history(accel_trainer(tmp_path, cls=Trainer, max_steps=3))
    trainer = accel_trainer(tmp_path, max_steps=3)
    assert history(trainer) == plain
    assert trainer.accelerator is not mine and trainer.accelerator.mixed_precision == "no"
    assert states() == before and mine.gradient_accumulation_steps == 7


def test_one_accelerator_serves_two_trainers(tmp_path: Path) -> None:
    def work() -> Any:
        mine = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        trainers = [accel_trainer(tmp_path, accelerator=lambda: mine, per_device_train_batch_size=1, max_steps=3) for _ in range(2)]
        assert all(trainer.accelerator is mine for trainer in trainers)
        first, second = history(trainers[0]), history(trainers[1])
        trainers[0].train()  # on from where it stands, prepared anew
        return first == second, len(mine._models)

    assert run(work, 2) == [(True, 2)] * 2


def test_callbacks_can_ask_the_accelerator(tmp_path: Path) -> None:
    class Ask(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seen.append(("between", trainer.accelerator.sync_gradients))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            mine = trainer.accelerator
            everybody = mine.gather(torch.tensor([mine.process_index])).tolist()
            self.seen.append((mine.is_main_process, mine.num_processes, mine.gradient_accumulation_steps, mine.sync_gradients, everybody))

    def work() -> Any:
        nonlocal trainer
        trainer = accel_trainer(tmp_path, per_device_train_batch_size=1, max_steps=1)
        trainer.add_callback(ask := Ask())
        trainer.train()
        return ask.seen

    trainer: Any = None
    for rank, seen in enumerate(run(work, 2)):
        assert seen == [("between", False), (rank == 0, 2, 2, True, [0, 1])]


# What can be asked for


def test_every_argument_of_the_accelerator_is_known() -> None:
    theirs = set(inspect.signature(accelerate.Accelerator.__init__).parameters) - {"self"}
    assert theirs <= set(KNOWN)
    #: These are arguments of its data loaders; configurations of older versions have them among the others.
    assert set(KNOWN) - theirs == {"dispatch_batches", "even_batches", "use_seedable_sampler"}
    assert not set(TAKEN) & set(REFUSED)


def test_the_document_tells_every_argument() -> None:
    text = (Path(__file__).parents[2] / "docs/accelerate.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in row.replace("`", "").replace(" ", "").split(",")]
    assert sorted(told) == sorted(KNOWN)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_a_run_is_refused_with_another_way(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        AccelTrainingArguments(accelerator_args={name: "something"})
    (problem,) = refused.value.problems
    assert problem.path == f"accelerator_args.{name}" and "cannot be had" in problem.message and problem.hint
    AccelTrainingArguments(accelerator_args={name: None})


RIGHT: dict[str, Any] = {
    "cpu": True,
    "device_placement": True,
    "dispatch_batches": False,
    "gradient_accumulation_steps": 1,
    "kwargs_handlers": [GradScalerKwargs(init_scale=4.0)],
    "mixed_precision": "fp16",
    "split_batches": False,
    "step_scheduler_with_optimizer": True,
}
WRONG = [
    ("cpu", "yes"),
    ("device_placement", False),
    ("dispatch_batches", 1),
    ("gradient_accumulation_steps", 0),
    ("gradient_accumulation_steps", 3),
    ("kwargs_handlers", {}),
    ("mixed_precision", "fp8"),
    ("split_batches", True),
    ("step_scheduler_with_optimizer", False),
]


def test_every_other_argument_has_its_meaning(tmp_path: Path) -> None:
    assert RIGHT.keys() == TAKEN.keys() == {name for name, _ in WRONG}
    args = AccelTrainingArguments(accelerator_args=RIGHT)
    assert (args.fp16, args.bf16, args.use_cpu) == (True, False, True)
    trainer = accel_trainer(tmp_path, accelerator_args=RIGHT, max_steps=2)
    trainer.train()
    assert trainer.accelerator.mixed_precision == "fp16"
    assert trainer._engine.scaler is trainer.accelerator.scaler and trainer._engine.scaler.get_scale() == 4.0


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_cannot_be_had_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"accelerator_args.{name}"):
        AccelTrainingArguments(accelerator_args={name: value})


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({"bf16": True, "accelerator_args": {"mixed_precision": "fp16"}}, "mixed_precision"),
        ({"bf16": True, "accelerator_args": {"mixed_precision": "no"}}, "mixed_precision"),
        ({"use_cpu": True, "accelerator_args": {"cpu": False}}, "cpu"),
        ({"gradient_accumulation_steps": 2, "accelerator_args": {"gradient_accumulation_steps": 4}}, "gradient_accumulation_steps"),
    ],
)
def test_contradictions_are_refused(args: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=f"accelerator_args.{path}"):
        AccelTrainingArguments(**args)


def test_a_misspelt_argument_is_answered_by_check_with_its_place(tmp_path: Path) -> None:
    block = "-- block trainer_args\n    accelerator_args:\n        split_bathces: false\n-- endblock\n"
    text = f"-- extends 'trainers/accel_trainer.yaml'\n{block}"
    (tmp_path / "run.yaml").write_text(text)
    (problem,) = config.check(config.load(tmp_path / "run.yaml"))
    assert (problem.origin.line, problem.path) == (4, "trainer_args.accelerator_args.split_bathces")
    assert problem.hint == "did you mean 'split_batches'?"


GIVEN: list[tuple[dict[str, Any], str]] = [
    ({"gradient_accumulation_steps": 3}, "accumulate 2 batches, but the Accelerator 3"),
    ({"mixed_precision": "fp16"}, "ask for bf16, but the Accelerator for fp16"),
    ({"device_placement": False}, "device_placement=False"),
    ({"dataloader_config": DataLoaderConfiguration(split_batches=True)}, "split_batches=True"),
    ({"dataloader_config": DataLoaderConfiguration(data_seed=5)}, "data_seed=5"),
    ({"step_scheduler_with_optimizer": False}, "step_scheduler_with_optimizer=False"),
    ({"gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=2, sync_each_batch=True)}, "sync_each_batch=True"),
    ({"fsdp_plugin": FullyShardedDataParallelPlugin}, "fsdp_plugin cannot be had"),
    ({"dynamo_backend": "eager"}, "dynamo_backend cannot be had"),
    ({"kwargs_handlers": [AutocastKwargs()]}, "AutocastKwargs has no effect"),
    ({"kwargs_handlers": [ProfileKwargs()]}, "ProfileCallback"),
    ({"kwargs_handlers": [GradScalerKwargs(enabled=False)]}, "without a scaler"),
    ({"kwargs_handlers": [DistributedDataParallelKwargs(static_graph=True)]}, "static_graph"),
    ({"kwargs_handlers": [DistributedDataParallelKwargs(comm_hook=DDPCommunicationHookType.POWER_SGD)]}, "PowerSGD"),
]


@pytest.mark.parametrize(("options", "message"), GIVEN, ids=lambda value: value if isinstance(value, str) else "")
def test_an_accelerator_that_would_change_a_run_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a plugin for sharding leaves a word there
    made = {name: value() if isinstance(value, type) else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=message):
        accel_trainer(tmp_path, accelerator=on_cpu(**made), bf16="mixed_precision" in options)


def test_what_accelerate_launch_was_told_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    trainer = accel_trainer(tmp_path, max_steps=2)
    assert trainer.args.bf16 and trainer.args.use_cpu
    trainer.train()
    assert (trainer.accelerator.mixed_precision, trainer.accelerator.gradient_accumulation_steps) == ("bf16", 2)
    with pytest.raises(ConfigError, match="told to stay on the CPU"):
        accel_trainer(tmp_path, accelerator_args={"cpu": False})
    with pytest.raises(ConfigError, match="the arguments ask for fp16, but accelerate launch for bf16"):
        accel_trainer(tmp_path, fp16=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_FSDP: fsdp_plugin cannot be had"):
        accel_trainer(tmp_path)


def test_other_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device_parameters are Trainer's"):
        AccelTrainer(tiny_lm(), {"output_dir": tmp_path}, device_parameters=spread_over())
    with pytest.raises(ConfigError, match=r"must be an accelerate\.Accelerator, found str"):
        AccelTrainer(tiny_lm(), {"output_dir": tmp_path}, accelerator="cpu")
    with pytest.raises(ConfigError, match="give either them or accelerator"):
        AccelTrainer(tiny_lm(), {"output_dir": tmp_path, "accelerator_args": {"cpu": True}}, accelerator=on_cpu()())

    def alone() -> str:
        with pytest.raises(ConfigError) as refused:
            AccelTrainer(tiny_lm(), {"output_dir": tmp_path}, accelerator=accelerate.Accelerator())
        return str(refused.value)

    AcceleratorState._reset_state(reset_partial_state=True)
    assert all("process 0 of 1, but this is process" in message and "cpu=True" in message for message in run(alone, 2))
