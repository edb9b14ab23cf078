"""Full disks, damaged files, planted pickles, odd models: a save that fails costs a warning, a damaged one is passed over."""

from __future__ import annotations

import contextlib
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from ironloom import Trainer, TrainerCallback
from ironloom.checkpoint.failures import SaveFailed
from ironloom.data.collate import default_collate
from tiny import TinyLM, assert_same_weights, records, tiny_lm, tiny_trainer, uneven_samples, weights


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Within the block no file of this process can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk(TrainerCallback):
    """The disk is full in the steps given."""

    def __init__(self, *steps: int, size: int = 4000):
        self.steps, self.size, self.stack = steps, size, contextlib.ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stack.close()
        if state.global_step + 1 in self.steps:
            self.stack.enter_context(small_files(self.size))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.stack.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_full_disk_costs_a_warning_and_one_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = {"save_steps": 1, "save_total_limit": None}
    whole = tiny_trainer(tmp_path / "whole", **args)
    whole.train()
    full = tiny_trainer(tmp_path / "full", options={"callbacks": [FullDisk(3, 4)]}, **args)
    full.train()
    assert [step for step in (3, 4) if f"step {step} could not be saved: File too large" in caplog.text] == [3, 4]
    assert "training goes on" in caplog.text
    assert names(tmp_path / "full") == [f"checkpoint-{step}" for step in (1, 2, 5, 6)]
    assert_same_weights(weights(whole.model), weights(full.model))
    assert records(whole.state.log_history) == records(full.state.log_history)


def test_a_full_disk_while_the_tokenizer_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The library tokenizers has no class of its own for this failure."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{number}": number for number in range(3000)}, unk_token="w0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", pad_token="w0")
    options = {"processing_class": tokenizer, "data_collator": default_collate, "callbacks": [FullDisk(2, size=40_000)]}
    tiny_trainer(tmp_path, options=options, save_total_limit=None).train()
    assert "step 2 could not be saved: File too large" in caplog.text
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]


class Scripted(Trainer):
    """Its evaluations give the losses of a script, step by step."""

    script: dict[int, float]

    def _run_evaluation(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._run_evaluation(*args, **kwargs)
        result.metrics["eval_loss"] = self.script[self.state.global_step]
        return result


def best_run(folder: Path, losses: list[float], *callbacks: Any, **args: Any) -> Scripted:
    options = {"save_total_limit": 1, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, **args}
    trainer = tiny_trainer(folder, cls=Scripted, options={"callbacks": list(callbacks)}, max_steps=len(losses), **options)
    trainer.script = dict(enumerate(losses, 1))
    trainer.train()
    return trainer


def test_the_best_pointer_stays_right_when_the_best_cannot_be_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Step 3 is the best and is lost; the checkpoint of step 1, the best that is on the disk, is kept and loaded."""
    trainer = best_run(tmp_path, [2.0, 3.0, 1.0, 3.0, 3.0], FullDisk(3))
    assert "step 3 could not be saved" in caplog.text
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoints" / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-5"]
    alone = best_run(tmp_path / "alone", [2.0])
    assert_same_weights(weights(alone.model), weights(trainer.model))


class SaveAgain(TrainerCallback):
    """Saves the last step of an epoch once more at the epoch's end, with a full disk."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = True
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, self.before[1]))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_the_best_is_not_forgotten_when_saving_it_once_more_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Eight steps an epoch; the eighth is the best and is saved; its second save fails, the first one is still there."""
    trainer = best_run(tmp_path, [3.0, 2.0, 3, 3, 3, 3, 3, 1.0], SaveAgain())
    assert "step 8 could not be saved" in caplog.text
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoints" / "checkpoint-8")
    assert names(tmp_path) == ["checkpoint-8"]


def test_each_best_is_protected_and_older_ones_go(tmp_path: Path) -> None:
    trainer = best_run(tmp_path, [3.0, 2.0, 2.5, 1.0, 1.5, 1.2])
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    assert trainer.state.best_metric == 1.0


FILES = [
    "manifest.json",
    "model.safetensors",
    "optimizer.json",
    "optimizer.safetensors",
    "scheduler.json",
    "trainer_state.json",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer: Trainer = tiny_trainer(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("harm", ["flipped", "missing", "cut"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_any_kind_costs_that_checkpoint_only(
    name: str, harm: str, whole: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_trainer(tmp_path).train()
    path = tmp_path / "checkpoints" / "checkpoint-6" / name
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flipped" else content[:-1])
    again = tiny_trainer(tmp_path, resume_from_checkpoint=True)
    again.train()
    assert f"checkpoint-6 is damaged and passed over: {name}" in caplog.text
    assert_same_weights(weights(whole.model), weights(again.model))
    assert records(whole.state.log_history) == records(again.state.log_history)
    assert again._find_latest_checkpoint() == str(path.parent), "it was saved anew"


def test_all_checkpoints_damaged_starts_fresh_and_says_so(whole: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tiny_trainer(tmp_path).train()
    for path in (tmp_path / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"")
    again = tiny_trainer(tmp_path, resume_from_checkpoint=True)
    again.train()
    assert caplog.text.count("damaged and passed over") == 2 and "training starts fresh" in caplog.text
    assert_same_weights(weights(whole.model), weights(again.model))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("replace", [True, False])
def test_a_planted_pickle_never_runs(replace: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the place of the true files, or beside them under every name that others load."""
    tiny_trainer(tmp_path, max_steps=4).train()
    folder, payload = tmp_path / "checkpoints" / "checkpoint-4", pickle.dumps(Payload(tmp_path / "marker"))
    beside = ["pytorch_model.bin", "optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "scaler.pt", "model.pkl"]
    for name in [path.name for path in folder.iterdir()] if replace else beside:
        (folder / name).write_bytes(payload)
    if replace:
        with pytest.raises(ValueError, match="damaged"):
            tiny_trainer(tmp_path / "other", resume_from_checkpoint=str(folder)).train()
    assert tiny_trainer(tmp_path, resume_from_checkpoint=True).train().global_step == 6
    assert ("damaged" in caplog.text) is replace
    assert not (tmp_path / "marker").exists()


class Odd(TinyLM):
    """Tied weights, a buffer that is not saved, two names for one buffer, a half-precision buffer."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)
        self.head = nn.Linear(16, 31, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.norm.register_buffer("steps", self.steps)
        self.register_buffer("scale", torch.ones(2, dtype=torch.bfloat16))

    def forward(self, input_ids: torch.Tensor) -> Any:
        if self.training:
            self.steps += 1
        return super().forward(input_ids)


def test_tied_weights_and_odd_buffers_go_on(tmp_path: Path) -> None:
    def run(folder: Path, **args: Any) -> Trainer:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            trainer = tiny_trainer(folder, model=Odd(), **args)
        trainer.train()
        return trainer

    whole = run(tmp_path / "whole", lr_scheduler_type="constant")
    run(tmp_path / "parts", lr_scheduler_type="constant", max_steps=3)
    parts = run(tmp_path / "parts", lr_scheduler_type="constant", resume_from_checkpoint=True)
    assert_same_weights(weights(whole.model), weights(parts.model))
    assert parts.model.head.weight is parts.model.embed.weight
    assert parts.model.steps is parts.model.norm.steps and int(parts.model.steps) == 6


class Keeps(TrainerCallback):
    """Its state cannot be stored from a step on."""

    def __init__(self, step: int):
        self.step, self.state = step, {"fine": 1}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.state["open file"] = print  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_a_callback_state_that_cannot_be_stored_is_named_before_training(tmp_path: Path) -> None:
    callback = Keeps(0)
    callback.state["handle"] = print  # type: ignore[assignment]
    trainer = tiny_trainer(tmp_path, options={"callbacks": [callback]})
    with pytest.raises(TypeError, match=r"\['callbacks'\]\['Keeps:0'\]\['handle'\] cannot be stored: it is a function"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_one_that_turns_so_later_stops_the_run_and_keeps_what_was_saved(tmp_path: Path) -> None:
    """Loud, not silent: nobody wants checkpoints that cannot be gone on from. The lock is given back."""
    with pytest.raises(TypeError, match=r"\['Keeps:0'\]\['open file'\] cannot be stored"):
        tiny_trainer(tmp_path, options={"callbacks": [Keeps(3)]}).train()
    assert names(tmp_path) == ["checkpoint-2"]
    again = tiny_trainer(tmp_path, options={"callbacks": [Keeps(0)]}, resume_from_checkpoint=True)
    assert again.train().global_step == 6


def test_a_model_whose_generation_settings_contradict_each_other_is_saved(tmp_path: Path) -> None:
    """transformers refuses to save such settings, though it loads them: common in published chat models."""
    config = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.temperature, model.generation_config.do_sample = 0.5, False
    assert tiny_trainer(tmp_path, model=model).train().global_step == 6
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]


def test_saving_by_hand_says_what_failed(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.train()
    with small_files(4000), pytest.raises(SaveFailed, match="step 1 could not be saved: File too large"):
        trainer._save_checkpoint()
    assert names(tmp_path) == ["checkpoint-1"]
    assert trainer._validate_checkpoint(str(tmp_path / "checkpoints" / "checkpoint-1"))


def test_a_checkpoint_of_another_kind_of_model_names_its_tensors(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ValueError, match=r"do not fit the model:\n  missing: linear.weight"):
        tiny_trainer(tmp_path, model=nn.ModuleDict({"linear": nn.Linear(2, 2)}), resume_from_checkpoint=True).train()
    assert tiny_trainer(tmp_path, model=tiny_lm(), train=uneven_samples(16), resume_from_checkpoint=True).train().global_step == 6
