"""The loss is sum over weight of the whole optimizer step, for every way of cutting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ironloom import Trainer, TrainerCallback
from tiny import TinyLM, assert_same_weights, losses, tiny_lm, uneven_samples, weights


class KeepGradients(TrainerCallback):
    """Notes the gradients of each step before they are used."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def train(model: nn.Module, samples: list[Any], folder: Path, **args: Any) -> tuple[Trainer, KeepGradients]:
    keep = KeepGradients()
    options: dict[str, Any] = {
        "output_dir": folder,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_grad_norm": 0,
        "disable_tqdm": True,
        "learning_rate": 0.01,
        "max_steps": 3,
    }
    trainer = Trainer(model, {**options, **args}, train_dataset=samples, callbacks=[keep])
    trainer.train()
    return trainer, keep


def one_big_batch(model: nn.Module, samples: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient by plain PyTorch: every unmasked target counts the same."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    logits = model(batch["input_ids"])
    logits = logits["logits"] if isinstance(logits, dict) else logits.logits
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), batch["labels"][:, 1:].reshape(-1))
    model.zero_grad()
    loss.backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), gradient


def relative_error(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in other)
    size = sum(float(value.double().square().sum()) for value in other.values())
    return (difference / size) ** 0.5


@pytest.mark.parametrize(("micro", "accumulation"), [(24, 1), (12, 2), (6, 4), (3, 8), (1, 24)])
def test_any_split_gives_the_gradient_of_the_big_batch(micro: int, accumulation: int, tmp_path: Path) -> None:
    samples, model = uneven_samples(24), tiny_lm()
    loss, gradient = one_big_batch(tiny_lm(), samples)
    trainer, keep = train(
        model, samples, tmp_path, per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation, max_steps=1
    )
    assert relative_error(keep.steps[0], gradient) < 1e-6
    assert losses(trainer.state.log_history) == [(1, pytest.approx(loss, rel=1e-6))]


def tiny_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def deaf_llama() -> nn.Module:
    """A transformers model that ignores ``num_items_in_batch``: a mean for every micro-batch."""
    model = tiny_llama()
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: F.cross_entropy(
        logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1)
    )
    model.accepts_loss_kwargs = False
    return model


@pytest.mark.parametrize("make", [tiny_llama, deaf_llama])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_transformers_models_too(make: Any, accumulation: int, tmp_path: Path) -> None:
    samples = uneven_samples(8)
    loss, gradient = one_big_batch(make(), samples)
    trainer, keep = train(
        make(),
        samples,
        tmp_path,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
    )
    assert relative_error(keep.steps[0], gradient) < 1e-6
    assert losses(trainer.state.log_history)[0][1] == pytest.approx(loss, rel=1e-6)


def test_logged_loss_is_the_mean_over_all_targets_since_the_last_record(tmp_path: Path) -> None:
    fine, _ = train(tiny_lm(), uneven_samples(24), tmp_path, per_device_train_batch_size=4, max_steps=6)
    coarse, _ = train(tiny_lm(), uneven_samples(24), tmp_path, per_device_train_batch_size=4, max_steps=6, logging_steps=3)
    targets = []
    for batch in fine.train_dataloader.iterate(0):
        targets.append(int((batch["labels"][:, 1:] != -100).sum()))
    steps = [loss for _, loss in losses(fine.state.log_history)]
    expected = [
        sum(loss * count for loss, count in zip(steps[part], targets[part], strict=True)) / sum(targets[part])
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert [loss for _, loss in losses(coarse.state.log_history)] == pytest.approx(expected, rel=1e-7)
    assert len(set(targets)) > 1, "uneven masks, or the test shows nothing"


def test_training_loss_is_the_mean_over_all_targets(tmp_path: Path) -> None:
    samples = uneven_samples(24)
    trainer, _ = train(tiny_lm(), samples, tmp_path, per_device_train_batch_size=24, max_steps=1)
    again, _ = train(tiny_lm(), samples, tmp_path, per_device_train_batch_size=5, max_steps=-1, learning_rate=0.0)
    assert again.state.log_history[-1]["train_loss"] == pytest.approx(trainer.state.log_history[-1]["train_loss"], rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 24])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_evaluation_is_the_mean_over_all_targets(batch_size: int, accumulation: int, tmp_path: Path) -> None:
    samples = uneven_samples(24)
    expected, _ = one_big_batch(tiny_lm(), samples)
    args = {
        "output_dir": tmp_path,
        "per_device_eval_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "disable_tqdm": True,
    }
    metrics = Trainer(tiny_lm(dropout=0.5), args, eval_dataset=samples).evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_compute_loss_func_divides_by_the_targets_of_the_step(tmp_path: Path) -> None:
    seen: list[int] = []

    def loss_func(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        seen.append(int(num_items_in_batch))
        logits = outputs["logits"][:, :-1]
        total = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum")
        return total / num_items_in_batch

    samples = uneven_samples(8)
    loss, gradient = one_big_batch(tiny_lm(), samples)
    keep = KeepGradients()
    args = {
        "output_dir": tmp_path,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "max_grad_norm": None,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer = Trainer(tiny_lm(), args, train_dataset=samples, compute_loss_func=loss_func, callbacks=[keep])
    trainer.train()
    targets = sum(int((sample["labels"][1:] != -100).sum()) for sample in samples)
    assert seen == [targets] * 4
    assert relative_error(keep.steps[0], gradient) < 1e-6
    assert losses(trainer.state.log_history)[0][1] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_overridden_compute_loss_means_over_its_batch(accumulation: int, tmp_path: Path) -> None:
    class Custom(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            outputs = model(inputs["input_ids"])
            logits, labels = outputs["logits"][:, :-1], inputs["labels"][:, 1:]
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
            return (loss, outputs) if return_outputs else loss

    samples = uneven_samples(8)
    loss, gradient = one_big_batch(tiny_lm(), samples)
    keep = KeepGradients()
    args = {
        "output_dir": tmp_path,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 1,
        "logging_steps": 1,
        "max_grad_norm": None,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer = Custom(tiny_lm(), args, train_dataset=samples, callbacks=[keep])
    trainer.train()
    assert relative_error(keep.steps[0], gradient) < 1e-6
    assert losses(trainer.state.log_history)[0][1] == pytest.approx(loss, rel=1e-6)


def test_leftover_micro_batches_make_a_step_of_their_own(tmp_path: Path) -> None:
    """Ten batches in windows of four: 4, 4, 2; nothing leaks into the next epoch."""
    samples = uneven_samples(10)
    trainer, keep = train(
        tiny_lm(), samples, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=6, learning_rate=0.0
    )
    batches = list(trainer.train_dataloader.iterate(0))
    rest = [{key: value[0] for key, value in batch.items()} for batch in batches[8:]]
    _, gradient = one_big_batch(tiny_lm(), rest)
    assert len(keep.steps) == 6
    assert relative_error(keep.steps[2], gradient) < 1e-6
    second = [{key: value[0] for key, value in batch.items()} for batch in list(trainer.train_dataloader.iterate(1))[:4]]
    assert relative_error(keep.steps[3], one_big_batch(tiny_lm(), second)[1]) < 1e-6


def test_a_step_without_targets_changes_no_loss(tmp_path: Path) -> None:
    samples = uneven_samples(4)
    for sample in samples[:2]:
        sample["labels"][:] = -100
    masked = samples[:2] * 2
    trainer, _ = train(tiny_lm(), masked, tmp_path, per_device_train_batch_size=2, max_steps=2)
    assert losses(trainer.state.log_history) == []
    assert trainer.state.global_step == 2


class Regression(nn.Module):
    """A module that computes its own loss and returns no logits that could be used."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.linear(x)[:, 0], labels)}


def test_a_model_with_a_loss_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Regression()
    samples = [{"x": torch.randn(3), "labels": torch.randn(())} for _ in range(8)]
    x, y = torch.stack([s["x"] for s in samples]), torch.stack([s["labels"] for s in samples])
    expected = F.mse_loss(model.linear(x)[:, 0], y).item()
    trainer, _ = train(model, samples, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1)
    assert losses(trainer.state.log_history)[0][1] == pytest.approx(expected, rel=1e-6)


def hf(name: str, **config: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**config))


BERT = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
T5 = {
    "vocab_size": 31,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("name", "config", "labels"),
    [
        ("BertForMaskedLM", BERT, "tokens"),
        ("BertForTokenClassification", {**BERT, "num_labels": 31}, "tokens"),
        ("BertForSequenceClassification", {**BERT, "num_labels": 3}, "classes"),
        ("BertForSequenceClassification", {**BERT, "num_labels": 1}, "numbers"),
        ("T5ForConditionalGeneration", T5, "tokens"),
        ("GPT2LMHeadModel", {"vocab_size": 31, "n_embd": 16, "n_layer": 1, "n_head": 2}, "tokens"),
    ],
)
def test_loss_of_every_task_equals_the_models_own(name: str, config: dict[str, Any], labels: str, tmp_path: Path) -> None:
    model = hf(name, **config).eval()
    make = {"tokens": lambda: torch.randint(31, (12,)), "classes": lambda: torch.randint(3, ()), "numbers": lambda: torch.randn(())}
    samples = [{"input_ids": torch.randint(1, 31, (12,)), "labels": make[labels]()} for _ in range(6)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    with torch.no_grad():
        expected = model(**batch).loss.item()
    args = {"output_dir": tmp_path, "per_device_eval_batch_size": 4, "disable_tqdm": True}
    assert Trainer(model, args, eval_dataset=samples).evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_bf16_trains_float32_master_weights(tmp_path: Path) -> None:
    model = TinyLM()
    trainer, _ = train(model, uneven_samples(16), tmp_path, bf16=True, per_device_train_batch_size=8, max_steps=30)
    found = [loss for _, loss in losses(trainer.state.log_history)]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert found[-1] < found[0]
    exact, _ = train(tiny_lm(), uneven_samples(16), tmp_path, per_device_train_batch_size=16, max_steps=1)
    rough, _ = train(tiny_lm(), uneven_samples(16), tmp_path, per_device_train_batch_size=16, max_steps=1, bf16=True)
    one, other = (losses(trainer.state.log_history)[0][1] for trainer in (exact, rough))
    assert one != other, "nothing was computed in bfloat16"
    assert other == pytest.approx(one, rel=0.02)


def test_fp16_scaler_skips_overflow_and_recovers(tmp_path: Path) -> None:
    """The first scale of 65536 overflows for this loss: the step is skipped, the scale is halved, then it trains."""
    model, samples = tiny_lm(), uneven_samples(16)
    before = weights(model)
    trainer, _ = train(
        model, samples, tmp_path, fp16=True, per_device_train_batch_size=16, max_steps=40, learning_rate=0.01, max_grad_norm=1.0
    )
    found = [loss for _, loss in losses(trainer.state.log_history)]
    assert found[-1] < found[0]
    with pytest.raises(AssertionError):
        assert_same_weights(before, weights(model))
    assert trainer._engine is not None and trainer._engine.scaler is not None
    assert trainer._engine.scaler.get_scale() > 0


def test_fp16_refuses_half_precision_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32 master weights"):
        train(tiny_lm().half(), uneven_samples(4), tmp_path, fp16=True)


def test_a_subclass_can_build_on_the_trainers_own_loss(tmp_path: Path) -> None:
    class Penalised(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            loss = loss + 1.0
            return (loss, outputs) if return_outputs else loss

    samples = uneven_samples(8)
    expected, _ = one_big_batch(tiny_lm(), samples)
    args = {"output_dir": tmp_path, "per_device_eval_batch_size": 3, "disable_tqdm": True}
    assert Penalised(tiny_lm(), args, eval_dataset=samples).evaluate()["eval_loss"] == pytest.approx(expected + 1.0, rel=1e-6)
