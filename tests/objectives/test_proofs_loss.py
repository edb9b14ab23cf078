"""The loss contract, hunted with random masks and splits, kinds of models and kinds of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ironloom import DataError, Trainer, TrainerCallback
from tiny import VOCABULARY, TinyLM, tiny_lm, tiny_trainer, uneven_samples

LENGTH = 8


class Gradients(TrainerCallback):
    """Notes the gradient of each step before it is used."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.steps.append(flat(model))


def flat(model: nn.Module) -> torch.Tensor:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def samples_of(targets: list[int]) -> list[dict[str, torch.Tensor]]:
    """One sample for each number of targets, 0 to LENGTH - 1."""
    draw = torch.Generator().manual_seed(sum(targets))
    samples = []
    for count in targets:
        ids = torch.randint(VOCABULARY, (LENGTH,), generator=draw)
        labels = torch.full((LENGTH,), -100)
        labels[1 + torch.randperm(LENGTH - 1, generator=draw)[:count]] = ids[1]
        labels[0] = ids[0]  # has no prediction, so it must not count
        samples.append({"input_ids": ids, "labels": labels})
    return samples


def reference(model: nn.Module, batches: list[Any]) -> tuple[float, torch.Tensor, int]:
    """Sum of losses, gradient of their mean, number of targets, of all batches as one, by plain PyTorch."""
    logits = torch.cat([model(batch["input_ids"])["logits"][:, :-1] for batch in batches])
    labels = torch.cat([batch["labels"][:, 1:] for batch in batches])
    count = int((labels != -100).sum())
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    model.zero_grad()
    (total / max(count, 1)).backward()
    gradient = flat(model)
    model.zero_grad()
    return total.item(), gradient, count


def run(folder: Path, model: nn.Module, samples: list[Any], **args: Any) -> tuple[Any, Gradients]:
    """Training that leaves the weights as they are, so that every step can be computed again."""
    keep = Gradients()
    options = {"options": {"callbacks": [keep]}, **args}
    defaults = {"learning_rate": 0.0, "max_steps": -1, "max_grad_norm": 0, "save_strategy": "no"}
    trainer = tiny_trainer(folder, model=model, train=samples, evaluation=samples, **{**defaults, **options})
    return trainer, keep


class OwnLoss(TinyLM):
    """Takes labels and returns nothing but a mean of its own: not a number for a batch without targets."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = super().forward(input_ids)["logits"]
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


class OwnMethod(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        logits = model(inputs["input_ids"])["logits"]
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
        return (loss, {"logits": logits}) if return_outputs else loss


KINDS: dict[str, tuple[Callable[[], nn.Module], type[Trainer]]] = {
    "logits": (TinyLM, Trainer),
    "own loss": (OwnLoss, Trainer),
    "compute_loss": (TinyLM, OwnMethod),
}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    targets=st.lists(st.integers(0, LENGTH - 1) | st.just(0), min_size=1, max_size=11),
    micro=st.sampled_from([1, 2, 4]),
    accumulation=st.integers(1, 4),
    logging_steps=st.integers(1, 3),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_any_split_of_any_mask_is_the_one_big_batch(
    targets: list[int], micro: int, accumulation: int, logging_steps: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Gradient of every step, every logged loss, the loss of the run and that of an evaluation."""
    make, cls = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    trainer, keep = run(
        tmp_path_factory.mktemp("run"),
        model,
        samples_of(targets),
        cls=cls,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        logging_steps=logging_steps,
        num_train_epochs=2,
    )
    output = trainer.train()
    batches = [list(trainer.train_dataloader.iterate(epoch)) for epoch in (0, 1)]
    windows = [epoch[start : start + accumulation] for epoch in batches for start in range(0, len(epoch), accumulation)]
    expected = [reference(model, window) for window in windows]
    assert len(keep.steps) == len(expected) == output.global_step
    for found, (_, gradient, _) in zip(keep.steps, expected, strict=True):
        assert float((found - gradient).norm()) <= 1e-6 * float(gradient.norm())
    logged = {record["step"]: record.get("loss") for record in trainer.state.log_history if "learning_rate" in record}
    since = 0
    for step, loss in logged.items():
        count = sum(count for _, _, count in expected[since:step])
        mean = sum(total for total, _, _ in expected[since:step]) / max(count, 1)
        assert (loss is None) is (count == 0) and (loss or 0.0) == pytest.approx(mean, rel=1e-6)
        since = step
    total, count = sum(total for total, _, _ in expected), sum(count for _, _, count in expected)
    assert output.training_loss == pytest.approx(total / count if count else math.nan, rel=1e-6, nan_ok=True)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count if count else math.nan, rel=1e-6, nan_ok=True)
    assert trainer.state.num_target_tokens_seen == count


def shifted(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"input_ids": sample["input_ids"], "shift_labels": F.pad(sample["labels"][1:], (0, 1), value=-100)}


class KeywordLlamaForCausalLM(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """A forward that names nothing, as adapters and wrappers have."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


LLAMA = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}


@pytest.mark.parametrize("cls", [transformers.LlamaForCausalLM, KeywordLlamaForCausalLM])
@pytest.mark.parametrize("change", [dict, shifted])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_shifted_labels_and_models_that_take_anything(cls: Any, change: Any, accumulation: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = cls(transformers.LlamaConfig(vocab_size=VOCABULARY, **LLAMA))
    samples = uneven_samples(8, LENGTH)
    whole = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    total, gradient, count = reference(model, [whole])
    size = 8 // accumulation
    trainer, keep = run(
        tmp_path, model, list(map(change, samples)), per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=1
    )
    trainer.train()
    assert float((keep.steps[0] - gradient).norm()) < 1e-6 * float(gradient.norm())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-6)


@dataclass
class Output:
    logits: torch.Tensor


class Attribute:
    def __init__(self, logits: torch.Tensor):
        self.loss, self.logits = logits.mean(), logits


WRAPS: list[Callable[[torch.Tensor], Any]] = [
    lambda logits: logits,
    lambda logits: (logits,),
    lambda logits: (logits.mean(), logits),
    lambda logits: (logits, logits.mean()),
    lambda logits: {"logits": logits},
    lambda logits: {"loss": logits.mean(), "logits": logits},
    lambda logits: transformers.modeling_outputs.CausalLMOutput(loss=logits.mean(), logits=logits),
    Output,
    Attribute,
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_loss_does_not_depend_on_what_forward_returns(wrap: Any, tmp_path: Path) -> None:
    class Wrapped(TinyLM):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return wrap(super().forward(input_ids)["logits"])

    samples = uneven_samples(8, LENGTH)
    found = []
    for model in (tiny_lm(), Wrapped()):
        model.load_state_dict(tiny_lm().state_dict())
        trainer, keep = run(tmp_path, model, samples, gradient_accumulation_steps=2, max_steps=2)
        trainer.train()
        found.append((trainer.state.log_history[0]["loss"], trainer.evaluate()["eval_loss"]))
        assert len(keep.steps) == 2
    assert found[0] == found[1]
    predicted = trainer.predict(samples).predictions
    assert predicted.shape == (8, LENGTH, VOCABULARY)


class Unshifted(TinyLM):
    """Trains each position on the target at the same place; the key is its own."""

    def forward(self, input_ids: torch.Tensor, targets: torch.Tensor) -> Any:
        logits = super().forward(input_ids)["logits"]
        return {"loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100), "logits": logits}


class UnshiftedTuple(TinyLM):
    """The same in the manner of nanoGPT: logits first, the targets may be left out."""

    def forward(self, input_ids: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        logits = super().forward(input_ids)["logits"]
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


@pytest.mark.parametrize("fresh", [False, True], ids=["trained", "all tokens alike"])
@pytest.mark.parametrize("cls", [Unshifted, UnshiftedTuple])
def test_a_modules_own_loss_is_not_mistaken_for_one_that_shifts(cls: Any, fresh: bool, tmp_path: Path) -> None:
    """With a head of zeros every loss is log(vocabulary), shifted or not: the first batch cannot tell them apart."""
    torch.manual_seed(0)
    model = cls()
    if fresh:
        nn.init.zeros_(model.head.weight), nn.init.zeros_(model.head.bias)
    samples = [{"input_ids": s["input_ids"], "targets": s["input_ids"].roll(-1)} for s in uneven_samples(8, LENGTH)]
    args = {"label_names": ["targets"], "gradient_accumulation_steps": 2, "max_steps": 200, "learning_rate": 0.02}
    trainer, _ = run(tmp_path, model, samples, per_device_train_batch_size=4, **args)
    trainer.train()
    whole = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    with torch.no_grad():
        outputs = model.eval()(**whole)
        loss = (outputs["loss"] if cls is Unshifted else outputs[1]).item()
    assert loss < 1.0, "it was trained on other labels than its own loss has"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_labels_under_another_key(tmp_path: Path) -> None:
    renamed = [{"input_ids": sample["input_ids"], "next": sample["labels"]} for sample in uneven_samples(8, LENGTH)]
    plain, _ = run(tmp_path, tiny_lm(), uneven_samples(8, LENGTH))
    other, _ = run(tmp_path, tiny_lm(), renamed, label_names=["next"])
    for trainer in (plain, other):
        trainer.train()
    assert [r["loss"] for r in plain.state.log_history if "loss" in r] == [r["loss"] for r in other.state.log_history if "loss" in r]
    assert (plain.predict(uneven_samples(4, LENGTH)).label_ids == other.predict(renamed[:4]).label_ids).all()


T5 = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "dropout_rate": 0.0}


def bart() -> nn.Module:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=8,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        dropout=0.0,
        max_position_embeddings=16,
        **sizes,
    )
    return transformers.BartForConditionalGeneration(config)


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, decoder_start_token_id=0, pad_token_id=0))


@pytest.mark.parametrize("make", [t5, bart])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_encoder_decoders(make: Any, accumulation: int, tmp_path: Path) -> None:
    """Every label is a target, the first too; the decoder's inputs are the model's own."""
    torch.manual_seed(0)
    model = make()
    samples = uneven_samples(8, LENGTH)
    whole = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    expected = model(**whole).loss
    expected.backward()
    gradient = flat(model)
    model.zero_grad()
    trainer, keep = run(
        tmp_path, model, samples, per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation, max_steps=1
    )
    trainer.train()
    assert float((keep.steps[0] - gradient).norm()) < 1e-5 * float(gradient.norm())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.linear(x), x)}


def test_a_model_that_needs_no_labels_trains_on_its_own_mean_over_samples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, samples = Autoencoder(), [{"x": torch.randn(4)} for _ in range(7)]
    expected = model(torch.stack([sample["x"] for sample in samples]))["loss"].item()
    trainer, _ = run(tmp_path, model, samples, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_function_without_labels_counts_samples(tmp_path: Path) -> None:
    """compute_loss_func gets None for labels; num_items_in_batch is the number of samples of the whole step."""
    seen = []

    def distance(outputs: Any, labels: Any, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        seen.append((labels, int(num_items_in_batch)))
        return outputs["logits"].square().mean((1, 2)).sum() / num_items_in_batch

    samples = [{"input_ids": sample["input_ids"]} for sample in uneven_samples(8, LENGTH)]
    trainer, _ = run(tmp_path, tiny_lm(), samples, gradient_accumulation_steps=4, options={"compute_loss_func": distance})
    trainer.train()
    assert seen == [(None, 8)] * 4
    with torch.no_grad():
        logits = tiny_lm()(torch.stack([sample["input_ids"] for sample in samples]))["logits"]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(logits.square().mean().item(), rel=1e-6)


def test_a_compute_loss_of_a_masked_language_model_counts_every_label(tmp_path: Path) -> None:
    """Its labels are not shifted, so the weights of the micro-batches must not be either."""

    class Masked(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    samples = uneven_samples(6, LENGTH)
    for sample in samples[:3]:
        sample["labels"][:] = -100
        sample["labels"][0] = 3
    whole = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    expected = model(**whole).loss.item()
    trainer, _ = run(tmp_path, model, samples, cls=Masked, per_device_eval_batch_size=1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("cls", [TinyLM, OwnLoss])
def test_no_labels_at_all_is_told(cls: Any, tmp_path: Path) -> None:
    samples = [{"input_ids": sample["input_ids"]} for sample in uneven_samples(4, LENGTH)]
    with pytest.raises((DataError, ValueError), match=r"no 'labels'|neither logits nor a loss"):
        run(tmp_path, cls(), samples)[0].train()


class LastTokenOnly(UnshiftedTuple):
    """nanoGPT to the letter: without targets only the last position is computed."""

    def forward(self, input_ids: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        logits, loss = super().forward(input_ids, targets)
        return (logits, loss) if targets is not None else (logits[:, [-1]], loss)


def test_a_module_that_predicts_the_last_token_only_without_labels(tmp_path: Path) -> None:
    samples = [{"input_ids": s["input_ids"], "targets": s["labels"]} for s in uneven_samples(8, LENGTH)]
    losses = []
    for cls in (UnshiftedTuple, LastTokenOnly):
        torch.manual_seed(0)
        trainer, _ = run(tmp_path, cls(), samples, label_names=["targets"], gradient_accumulation_steps=2)
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == losses[1]
