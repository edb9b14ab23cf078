"""Bad input: one clear message of the right class, nothing lost, nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import ConfigError, DataError, Interrupted, ResourceError, Trainer, TrainerCallback, TrainingArguments
from ironloom.data.order import Permutation
from ironloom.device import random_key
from ironloom.errors import NonFiniteError
from tiny import VOCABULARY, assert_same_weights, tiny_lm, uneven_samples, weights


def make(folder: Path, train: Any = None, **args: Any) -> Trainer:
    options = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        **args,
    }
    train = uneven_samples(16) if train is None else train
    return Trainer(tiny_lm(), options, train_dataset=train, eval_dataset=uneven_samples(6))


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"learning_rate": "high"}, "learning_rate: expected a number, found 'high'"),
    ({"adam_beta1": 1.5}, "adam_beta1"),
    ({"gradient_accumulation_steps": 0}, "at least 1"),
    ({"warmup_steps": 100, "max_steps": 10}, "longer than the run"),
    ({"bf16": "yes"}, "true or false"),
    ({"bf16": True, "fp16": True}, "exclude each other"),
    ({"logging_steps": -1}, "at least 1"),
    ({"eval_strategy": "sometimes"}, "'no', 'steps' or 'epoch'"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"max_steps": 0}, "train nothing"),
    ({"load_best_model_at_end": True}, "eval_strategy"),
    ({"dataloader_persistent_workers": True}, "without workers"),
    ({"seed": 1.5}, "whole number"),
    ({"save_total_limit": 0}, "at least 1"),
    ({"lernin_rate": 1}, "did you mean 'learning_rate'"),
    ({"warmup_steps": 3, "warmup_ratio": 0.1}, "twice"),
]


@pytest.mark.parametrize(("args", "message"), NONSENSE)
def test_nonsense_values_are_refused(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingArguments.from_mapping(args)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        TrainingArguments.from_mapping({"bf16": "yes", "seed": "x", "loging_steps": 3, "adam_beta2": 2, "max_grad_norm": -1})
    assert len(error.value.problems) == 5


def test_a_value_is_checked_when_it_is_set() -> None:
    args = TrainingArguments()
    with pytest.raises(ConfigError, match="learning_rate"):
        args.learning_rate = "high"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        args.sead = 3  # type: ignore[attr-defined]
    assert args.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer_factory": print, "optimizer_cls_and_kwargs": (torch.optim.SGD, {})}, "give one of"),
        ({"args": 3}, "TrainingArguments or a dict"),
        ({"model_init": tiny_lm}, "either model or model_init"),
    ],
)
def test_combinations_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(model=tiny_lm(), **options)


def test_neither_model_nor_model_init() -> None:
    with pytest.raises(AssertionError, match="model or a model_init"):
        Trainer()


def test_no_training_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_dataset"):
        Trainer(tiny_lm(), {"output_dir": tmp_path}).train()
    with pytest.raises(DataError, match="train_dataset is empty"):
        make(tmp_path, train=[]).train()


def test_evaluation_without_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no eval_dataset"):
        Trainer(tiny_lm(), {"output_dir": tmp_path, "eval_strategy": "steps"}, train_dataset=uneven_samples()).train()
    with pytest.raises(ConfigError, match="eval_dataset"):
        Trainer(tiny_lm(), {"output_dir": tmp_path}).evaluate()


@pytest.mark.parametrize("key", ["labels", "input_ids"])
@pytest.mark.parametrize("value", [VOCABULARY, -1, 10**6])
def test_a_token_outside_the_vocabulary(key: str, value: int, tmp_path: Path) -> None:
    samples = uneven_samples(16)
    samples[3][key][-1] = value
    with pytest.raises(DataError, match=f"{value} is outside"):
        make(tmp_path, train=samples, max_steps=8).train()


def test_a_frozen_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        Trainer(tiny_lm().requires_grad_(False), {"output_dir": tmp_path}, train_dataset=uneven_samples()).train()


def test_unknown_arguments_of_train_and_evaluate(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="resume"):
        make(tmp_path).train(resume=True)
    with pytest.raises(TypeError, match="dataset"):
        make(tmp_path).evaluate(dataset=[])


class Poison(TrainerCallback):
    """Makes the model's logits not a number in one step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            self.hook = model.register_forward_hook(lambda module, inputs, outputs: {"logits": outputs["logits"] * float("nan")})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.hook.remove()


def test_nonfinite_loss_stops_with_the_step_named(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.add_callback(Poison(4))
    with pytest.raises(NonFiniteError, match="loss of step 4 is nan"):
        trainer.train()
    assert NonFiniteError.exit_code == 3
    assert (tmp_path / "checkpoints" / "checkpoint-3").is_dir(), "the last good step is saved"


def test_nonfinite_loss_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(tmp_path, nonfinite_policy="skip")
    trainer.add_callback(Poison(4))
    trainer.train()
    assert trainer.state.global_step == 6
    assert "loss of step 4 is nan" in caplog.text
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert trainer.state.log_history[-2]["skipped_steps"] == 1
    logged = [record["step"] for record in trainer.state.log_history if "loss" in record]
    assert logged == [1, 2, 3, 5, 6], "a skipped step has no loss"


class BadSample:
    """Its sample at position 10 of the first epoch cannot be read."""

    bad = int(Permutation(16, random_key("order", 42, 0))(10))

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise KeyError("text")
        return uneven_samples(16)[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_is_named_and_nothing_is_lost(workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"sample {BadSample.bad} of epoch 0.*text"):
        make(tmp_path, train=BadSample(), max_steps=8, dataloader_num_workers=workers).train()
    saved = [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")]
    assert saved == ["checkpoint-5"], "five steps of two samples came before it"


class Signal(TrainerCallback):
    def __init__(self, step: int, signum: int):
        self.step, self.signum = step, signum

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_finishes_the_step_saves_and_leaves(signum: int, workers: int, tmp_path: Path) -> None:
    before = signal.getsignal(signum)
    trainer = make(tmp_path, dataloader_num_workers=workers)
    ended = []
    trainer.add_callback(type("End", (TrainerCallback,), {"on_train_end": lambda *args, **kwargs: ended.append(1)}))
    trainer.add_callback(Signal(3, signum))
    with pytest.raises(Interrupted, match=r"after step 3: saved .*checkpoint-3") as stopped:
        trainer.train()
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert stopped.value.exit_code == 128 + signum
    assert ended == [1]
    assert signal.getsignal(signum) is before
    whole = make(tmp_path / "whole")
    whole.train()
    again = make(tmp_path, resume_from_checkpoint=True)
    again.train()
    assert_same_weights(weights(whole.model), weights(again.model))


def test_a_signal_without_saving(tmp_path: Path) -> None:
    trainer = make(tmp_path, save_strategy="no")
    trainer.add_callback(Signal(3, signal.SIGINT))
    with pytest.raises(Interrupted, match="nothing was saved, because save_strategy is 'no'"):
        trainer.train()


def test_training_in_a_thread(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 6


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    class Second(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with pytest.raises(ResourceError, match="run"):
                make(tmp_path).train()
            control.should_training_stop = True

    trainer = make(tmp_path)
    trainer.add_callback(Second)
    trainer.train()
    make(tmp_path).train()


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="file"):
        make(tmp_path / "file").train()


def test_a_path_with_spaces_and_umlauts(tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen und ä"
    make(folder).train()
    assert make(folder, resume_from_checkpoint=True).train().global_step == 6


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """Without clipping a gradient that is not a number spoils the weights one step before the loss shows it."""

    class Spoil(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                model.head.bias.grad[0] = float("nan")

    trainer = make(tmp_path, max_grad_norm=0, save_steps=2)
    trainer.add_callback(Spoil)
    with pytest.raises(NonFiniteError, match="loss of step 5") as error:
        trainer.train()
    assert any("not saved" in note for note in error.value.__notes__)
    assert trainer._find_latest_checkpoint() is not None


def test_a_label_that_the_models_own_loss_cannot_use_is_named(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    samples = [{"input_ids": torch.arange(5), "labels": torch.tensor(index)} for index in range(5)]
    args = {"output_dir": tmp_path, "max_steps": 1, "disable_tqdm": True, "per_device_train_batch_size": 5}
    with pytest.raises(DataError, match="labels from 0 to 4"):
        Trainer(transformers.BertForSequenceClassification(config), args, train_dataset=samples).train()
