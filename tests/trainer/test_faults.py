"""Faults that other trainers were found to have; each test names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import Trainer, TrainerCallback
from tiny import TinyLM, assert_same_weights, losses, tiny_lm, uneven_samples, weights


def make(folder: Path, model: Any = None, train: Any = None, **args: Any) -> Trainer:
    options = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 0.01,
        "save_strategy": "no",
        **args,
    }
    given = {"model_init": tiny_lm} if model is None else {"model": model}
    return Trainer(**given, args=options, train_dataset=uneven_samples(16) if train is None else train, eval_dataset=uneven_samples(6))


def test_no_evaluation_set(tmp_path: Path) -> None:
    trainer = Trainer(tiny_lm(), {"output_dir": tmp_path, "max_steps": 2, "disable_tqdm": True}, train_dataset=uneven_samples())
    assert trainer.train().global_step == 2


def test_evaluate_after_train_evaluates_the_trained_model(tmp_path: Path) -> None:
    calls = []

    def model_init() -> TinyLM:
        calls.append(1)
        return tiny_lm()

    args = {"output_dir": tmp_path, "disable_tqdm": True, "max_steps": 20, "learning_rate": 0.05, "save_strategy": "no"}
    trainer = Trainer(model_init=model_init, args=args, train_dataset=uneven_samples(), eval_dataset=uneven_samples())
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    trained = trainer.model
    after = trainer.evaluate()["eval_loss"]
    assert after < before - 0.1
    assert trainer.model is trained
    assert len(calls) == 1
    assert trainer.evaluate()["eval_loss"] == after


def test_a_second_train_starts_anew(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.train()
    first, history = weights(trainer.model), losses(trainer.state.log_history)
    trainer.train()
    assert_same_weights(first, weights(trainer.model))
    assert losses(trainer.state.log_history) == history


def test_evaluate_with_resume_needs_no_optimizer(tmp_path: Path) -> None:
    assert "eval_loss" in make(tmp_path, resume_from_checkpoint=True).evaluate()


def test_resume_without_any_checkpoint_starts_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert make(tmp_path, resume_from_checkpoint=True).train().global_step == 4
    assert "training starts fresh" in caplog.text


def test_resume_from_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such"):
        make(tmp_path, resume_from_checkpoint=str(tmp_path / "no-such")).train()


def test_no_scheduler(tmp_path: Path) -> None:
    """A constant rate and saving: nothing needs a scheduler's state."""
    args = {"output_dir": tmp_path, "disable_tqdm": True, "max_steps": 2, "save_steps": 1, "save_scheduler_state": True}
    model = tiny_lm()
    trainer = Trainer(model, args, train_dataset=uneven_samples(), optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))
    assert trainer.train().global_step == 2


@pytest.mark.parametrize("accumulation", [1, 4])
def test_epoch_strategies_and_epochs_under_accumulation(accumulation: int, tmp_path: Path) -> None:
    """Eight batches an epoch; epochs are counted in updates, and each end evaluates, logs and saves."""
    trainer = make(
        tmp_path,
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="epoch",
    )
    trainer.train()
    per_epoch = 8 // accumulation
    evaluations = [(record["step"], record["epoch"]) for record in trainer.state.log_history if "eval_loss" in record]
    assert evaluations == [(per_epoch, 1.0), (2 * per_epoch, 2.0)]
    assert [step for step, _ in losses(trainer.state.log_history)] == [per_epoch, 2 * per_epoch]
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert names == sorted(f"checkpoint-{step}" for step in (per_epoch, 2 * per_epoch))


def test_fractional_epochs(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=-1, num_train_epochs=1.5)
    assert trainer.train().global_step == 12
    assert trainer.state.epoch == 1.5


def test_epoch_of_every_record(tmp_path: Path) -> None:
    trainer = make(tmp_path, train=uneven_samples(10), max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2)
    trainer.train()
    epochs = [record["epoch"] for record in trainer.state.log_history if "loss" in record]
    assert epochs == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_drop_last(tmp_path: Path) -> None:
    seen = []

    class Count(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append((state.global_step, state.epoch))

    trainer = make(tmp_path, train=uneven_samples(7), max_steps=-1, num_train_epochs=2, dataloader_drop_last=True)
    trainer.add_callback(Count)
    trainer.train()
    assert seen == [(3, 1.0), (6, 2.0)]


def test_logging_first_step(tmp_path: Path) -> None:
    trainer = make(tmp_path, logging_first_step=True, logging_steps=3)
    trainer.train()
    assert [step for step, _ in losses(trainer.state.log_history)] == [1, 3, 4]


def test_empty_evaluation_is_named_before_training(tmp_path: Path) -> None:
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(1)

    args = {"output_dir": tmp_path, "eval_strategy": "steps", "max_steps": 2, "disable_tqdm": True}
    trainer = Trainer(tiny_lm(), args, train_dataset=uneven_samples(), eval_dataset=[], callbacks=[Count])
    with pytest.raises(ValueError, match="eval_dataset is empty"):
        trainer.train()
    with pytest.raises(ValueError, match="empty"):
        trainer.evaluate()
    assert steps == []


def test_evaluation_whose_targets_are_all_masked(tmp_path: Path) -> None:
    samples = uneven_samples(4)
    for sample in samples:
        sample["labels"][:] = -100
    loss = Trainer(tiny_lm(), {"output_dir": tmp_path}, eval_dataset=samples).evaluate()["eval_loss"]
    assert loss != loss


def test_zero_learning_rate_and_zero_values_are_logged(tmp_path: Path) -> None:
    trainer = make(tmp_path, learning_rate=0.0)
    trainer.train()
    assert [record["learning_rate"] for record in trainer.state.log_history if "loss" in record] == [0.0] * 4


def test_seed_zero_is_a_seed(tmp_path: Path) -> None:
    def final(seed: int, name: str) -> dict[str, torch.Tensor]:
        trainer = make(tmp_path / name, model=tiny_lm(dropout=0.5), seed=seed)
        trainer.train()
        return weights(trainer.model)

    assert_same_weights(final(0, "a"), final(0, "b"))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model_keeps_its_names_and_numbers(backend: str, tmp_path: Path) -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(31, 8), torch.nn.Linear(8, 31)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(input_ids))

    def run(folder: Path, **args: Any) -> Trainer:
        torch.manual_seed(0)
        trainer = make(folder, model=Linear(), save_strategy="steps", save_steps=4, **args)
        trainer.train()
        return trainer

    plain = run(tmp_path / "plain")
    compiled = run(tmp_path / "compiled", torch_compile=True, torch_compile_backend=backend)
    assert_same_weights(weights(plain.model), weights(compiled.unwrapped_model()))
    again = make(tmp_path / "compiled", model=Linear(), save_strategy="steps", resume_from_checkpoint=True)
    again.train()
    assert_same_weights(weights(again.model), weights(compiled.model))


def test_max_memory_is_reported(tmp_path: Path) -> None:
    metrics = make(tmp_path, report_memory=True).train().metrics
    assert 10 < metrics["peak_memory_mib"] < 100_000
    assert "peak_memory_mib" not in make(tmp_path).train().metrics


@pytest.mark.parametrize("name", ["grad_norm", "param_norm"])
def test_norm_cadences(name: str, tmp_path: Path) -> None:
    def steps(cadence: str | None) -> list[int]:
        args = {f"{name}_log_interval": cadence, "max_grad_norm": 0, "logging_steps": 2, "save_steps": 3, "save_strategy": "steps"}
        trainer = make(tmp_path / str(cadence), max_steps=6, **args)
        trainer.train()
        return [int(record["step"]) for record in trainer.state.log_history if name in record]

    assert steps(None) == []
    assert steps("log") == [2, 4, 6]
    assert steps("checkpoint") == [3, 6]


def test_norms_are_right(tmp_path: Path) -> None:
    found: dict[str, float] = {}

    class Measure(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            found["grad"] = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            found["param"] = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()

    trainer = make(tmp_path, grad_norm_log_interval="log", param_norm_log_interval="log", max_grad_norm=0, max_steps=1)
    trainer.add_callback(Measure)
    trainer.train()
    record = trainer.state.log_history[0]
    assert record["grad_norm"] == pytest.approx(found["grad"], rel=1e-5)
    assert record["param_norm"] == pytest.approx(found["param"], rel=1e-5)


def test_clipping_equals_pytorch(tmp_path: Path) -> None:
    clipped: list[dict[str, torch.Tensor]] = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            clipped.append({name: p.grad.clone() for name, p in model.named_parameters()})

    for limit in (0, 0.05):
        trainer = make(tmp_path, max_grad_norm=limit, max_steps=1)
        trainer.add_callback(Keep)
        trainer.train()
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in clipped[0].values()]
    for parameter, gradient in zip(parameters, clipped[0].values(), strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    assert norm > 0.05
    for parameter, gradient in zip(parameters, clipped[1].values(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)


def test_reduce_on_plateau_follows_evaluations(tmp_path: Path) -> None:
    args = {"output_dir": tmp_path, "disable_tqdm": True, "max_steps": 6, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
    trainer = Trainer(
        tiny_lm(),
        {**args, "save_strategy": "no"},
        train_dataset=uneven_samples(),
        eval_dataset=uneven_samples(4),
        optimizer_factory=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler_factory=lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9),
    )
    trainer.train()
    rates = [record["learning_rate"] for record in trainer.state.log_history if "loss" in record]
    assert rates[0] == 0.1
    assert rates[-1] < 0.1


def test_stream_of_unknown_length(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(uneven_samples(10))

    with pytest.raises(ValueError, match="set max_steps"):
        make(tmp_path, train=Stream(), max_steps=-1).train()
    whole = make(tmp_path / "whole", train=Stream(), max_steps=8)
    assert whole.train().global_step == 8
    saving = {"save_strategy": "steps", "save_steps": 3, "save_optimizer_state": True, "save_scheduler_state": True}
    constant = {"lr_scheduler_type": "constant"}
    whole = make(tmp_path / "whole2", train=Stream(), max_steps=8, **constant)
    whole.train()
    make(tmp_path / "parts", train=Stream(), max_steps=3, **saving, **constant).train()
    parts = make(tmp_path / "parts", train=Stream(), max_steps=8, resume_from_checkpoint=True, **saving, **constant)
    parts.train()
    assert_same_weights(weights(whole.model), weights(parts.model))


def test_several_evaluation_sets(tmp_path: Path) -> None:
    trainer = Trainer(tiny_lm(), {"output_dir": tmp_path}, eval_dataset={"a": uneven_samples(4), "b": uneven_samples(6, seed=1)})
    metrics = trainer.evaluate()
    assert metrics["eval_a_loss"] != metrics["eval_b_loss"]
    assert metrics["eval_a_loss"] == trainer.evaluate(uneven_samples(4))["eval_loss"]


def test_predictions_are_padded_and_joined(tmp_path: Path) -> None:
    samples = [{"input_ids": torch.arange(length), "labels": torch.arange(length)} for length in (3, 5)]
    args = {"output_dir": tmp_path, "per_device_eval_batch_size": 1}
    output = Trainer(tiny_lm(), args).predict(samples)
    assert output.predictions is not None and output.label_ids is not None
    assert output.predictions.shape == (2, 5, 31)
    assert output.label_ids.tolist() == [[0, 1, 2, -100, -100], [0, 1, 2, 3, 4]]
    assert (output.predictions[0, 3:] == -100).all()
    assert output.metrics is not None and output.metrics["test_loss"] > 0


def test_input_tokens_are_counted(tmp_path: Path) -> None:
    trainer = make(tmp_path, include_num_input_tokens_seen=True)
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["num_input_tokens_seen"] for record in records] == [24, 48, 72, 96]
    samples = [{**sample, "attention_mask": (torch.arange(12) < 5).long()} for sample in uneven_samples(8)]
    trainer = make(tmp_path, train=samples, include_num_input_tokens_seen="non_padding", max_steps=1)
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 10


def test_exit_steps_saves_and_stops(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=8, exit_steps=3, save_strategy="steps")
    trainer.train()
    assert trainer.state.global_step == 3
    again = make(tmp_path, max_steps=8, exit_steps=3, save_strategy="steps", resume_from_checkpoint=True)
    again.train()
    assert again.state.global_step == 6


def test_deterministic_refuses_what_is_not(tmp_path: Path) -> None:
    class Scatter(TinyLM):
        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            assert torch.are_deterministic_algorithms_enabled()
            return super().forward(input_ids)

    make(tmp_path, model=Scatter(), deterministic=True).train()
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(AssertionError):
        make(tmp_path, model=Scatter()).train()
