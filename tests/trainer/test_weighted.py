"""Training and evaluation with ``loss_weights``: one division by their sum over everything, whatever the batches are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from chat_templates import CHATML
from chats import answer, user
from dreams import configured
from ironloom import ConfigError, DreamTrainer, Trainer
from ironloom.data import SFTData, collate_rows
from ironloom.errors import DataError
from ironloom.models.build import build_decoder
from ironloom.settings.model import ModelConfig
from spread import weighted_rows
from tiny import TinyLM, assert_same_weights, losses, records, tiny_lm, tiny_trainer, weights

Sample = dict[str, torch.Tensor]


def by_hand(samples: list[Sample], model: TinyLM) -> tuple[float, float]:
    """Mean loss and norm of its gradient, in float64 behind the logits."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    logits = model(batch["input_ids"])["logits"][:, :-1].double()
    each = F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none", ignore_index=-100)
    share = (batch["loss_weights"][:, 1:] * (batch["labels"][:, 1:] != -100)).double().flatten()
    loss = (each * share).sum() / share.sum()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    return loss.item(), norm.item()


def targets(samples: list[Sample]) -> int:
    return sum(int(((sample["labels"][1:] != -100) & (sample["loss_weights"][1:] > 0)).sum()) for sample in samples)


@pytest.mark.parametrize(("micro", "accumulation"), [(24, 1), (6, 4), (5, 5), (1, 24)])
@pytest.mark.parametrize("factor", [1.0, 1e-4], ids=["", "lighter than one together"])
def test_any_split_is_the_one_big_batch(micro: int, accumulation: int, factor: float, tmp_path: Path) -> None:
    samples = [{**sample, "loss_weights": factor * sample["loss_weights"]} for sample in weighted_rows(24)]
    assert (sum(float(sample["loss_weights"].sum()) for sample in samples) < 1) == (factor < 1)
    options: dict[str, Any] = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    options |= {"save_strategy": "no", "grad_norm_log_interval": "log", "max_grad_norm": 0, "per_device_eval_batch_size": micro}
    trainer = tiny_trainer(tmp_path, tiny_lm(), samples, samples, **options)
    loss, norm = by_hand(samples, tiny_lm())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)
    output = trainer.train()
    (record,) = [record for record in trainer.state.log_history if "grad_norm" in record]
    assert (record["loss"], record["grad_norm"]) == pytest.approx((loss, norm), rel=1e-6)
    assert output.training_loss == pytest.approx(loss, rel=1e-6)
    assert trainer.state.num_target_tokens_seen == targets(samples)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    samples = weighted_rows(16)
    whole = tiny_trainer(tmp_path / "whole", train=samples)
    whole.train()
    tiny_trainer(tmp_path / "parts", train=samples, exit_steps=3).train()
    rest = tiny_trainer(tmp_path / "parts", train=samples)
    rest.train(resume_from_checkpoint=True)
    assert records(rest.state.log_history) == records(whole.state.log_history)
    assert_same_weights(weights(rest.model), weights(whole.model))
    assert rest.state.num_target_tokens_seen == whole.state.num_target_tokens_seen > 0


def test_the_method_of_a_subclass_is_given_them(tmp_path: Path) -> None:
    """It returns the weighted mean of its batch; the trainer weighs that by the sum of the weights."""

    class Custom(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            outputs = model(inputs["input_ids"])
            each = F.cross_entropy(outputs["logits"][:, :-1].transpose(1, 2), inputs["labels"][:, 1:], reduction="none")
            loss = (each * inputs["loss_weights"][:, 1:]).sum() / num_items_in_batch
            return (loss, outputs) if return_outputs else loss

    class Default(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    samples = weighted_rows(8)
    loss, _ = by_hand(samples, tiny_lm())
    options: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 1, "save_strategy": "no"}
    for cls in (Custom, Default):
        trainer = tiny_trainer(tmp_path, tiny_lm(), samples, cls=cls, **options)
        trainer.train()
        assert losses(trainer.state.log_history) == [(1, pytest.approx(loss, rel=1e-6))]
        assert trainer.state.num_target_tokens_seen == targets(samples)


class Steps(DreamTrainer):
    """The default step, within an engine for steps of one's own."""

    def configure_models(self) -> None:
        self.model = tiny_lm()

    def configure_dataloaders(self) -> Any:
        return weighted_rows(23), weighted_rows(7, seed=1)

    def pre_train_step(self, batch: Any, batch_idx: int) -> None:
        assert "loss_weights" in batch


def test_the_default_step_of_a_dream_trainer_heeds_them(tmp_path: Path) -> None:
    trainer = Steps(configured(tmp_path, n_epochs=1, train_batch_size=1, gradient_accumulation_steps=23))
    trainer.fit()
    loss, norm = by_hand(weighted_rows(23), tiny_lm())
    (record,) = [record for record in trainer.state.log_history if "grad_norm" in record]
    assert (record["loss"], record["grad_norm"]) == pytest.approx((loss, norm), rel=1e-5)
    assert trainer.state.num_target_tokens_seen == targets(weighted_rows(23))


def test_what_is_no_weight_ends_the_run(tmp_path: Path) -> None:
    samples = weighted_rows(4)
    samples[2]["loss_weights"][3] = -1
    with pytest.raises(DataError, match=r"loss_weights are finite numbers, 0 or more; that of label .* is -1\.0"):
        tiny_trainer(tmp_path, tiny_lm(), samples, per_device_train_batch_size=4).train()


def test_a_loss_that_does_not_heed_them_ends_the_run(tmp_path: Path) -> None:
    def mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        raise AssertionError("computed all the same")

    with pytest.raises(ConfigError, match="'loss_weights', which compute_loss_func does not heed"):
        tiny_trainer(tmp_path, tiny_lm(), weighted_rows(4), options={"compute_loss_func": mean}).train()


def test_logits_without_labels_are_predicted_beside_weights(tmp_path: Path) -> None:
    samples = [{name: value for name, value in sample.items() if name != "labels"} for sample in weighted_rows(4)]
    assert tiny_trainer(tmp_path, tiny_lm()).predict(samples).predictions.shape[0] == 4


TALKS = [
    [user("q" * (n % 5)), answer("a" * (1 + n % 7), weight=(0.5, 1, 2, 0)[n % 4]), user("b"), answer("c" * (n % 3))] for n in range(12)
]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_conversations_train_with_their_weights_packed_or_not(tmp_path: Path, packing: str) -> None:
    """A step on all of them is that of a loop by hand over one after the other."""
    source = tmp_path / "chats.jsonl"
    source.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS))
    shape: dict[str, Any] = {"tokenizer_type": "byte", "vocab_name_or_path": None, "vocab_size": None, "seq_length": 300}
    options = {"splits": (1.0, 0.0, 0.0), "chat_template": CHATML, "cache_dir": str(tmp_path / "cache")}
    alone = SFTData([str(source)], **shape, **options).train
    rows = SFTData([str(source)], packing=packing, **shape, **options).train
    settings = {"d_model": 16, "num_layers": 1, "num_attention_heads": 2, "head_dim": 8, "d_ffn": 32, "max_seq_len": 300}
    plain = {"dropout_embd": 0.0, "dropout_attn": 0.0, "dropout_mlp": 0.0}
    model, other = (build_decoder(ModelConfig.from_mapping({**settings, **plain}), 257, init_std=0.3) for _ in range(2))
    total, weight, count = torch.zeros(()), 0.0, 0
    for row in alone:
        each = F.cross_entropy(other(row["input_ids"][None]).logits[0], row["shift_labels"], reduction="none", ignore_index=-100)
        counts = row["shift_labels"] != -100
        total = total + (each * row["loss_weights"]).sum()
        weight += float(row["loss_weights"][counts].sum())
        count += int(counts.sum())
    (total / weight).backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in other.parameters() if parameter.grad is not None]).item()
    values: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": len(rows), "max_steps": 1}
    values |= {"save_strategy": "no", "grad_norm_log_interval": "log"}
    trainer = tiny_trainer(tmp_path / "run", model, rows, options={"data_collator": collate_rows}, **values)
    trainer.train()
    (record,) = [record for record in trainer.state.log_history if "grad_norm" in record]
    assert (record["loss"], record["grad_norm"]) == pytest.approx((total.item() / weight, norm), rel=1e-5)
    assert trainer.state.num_target_tokens_seen == count


def test_loss_fn_of_a_pipeline_is_asked_whether_it_is_ours() -> None:
    """Then it heeds weights; any other mean does not, and is refused."""
    from ironloom.parallel.pipeline.loss import objective_of

    sample = weighted_rows(2)[1]
    batch = {name: value[None] for name, value in sample.items()}
    ours = objective_of(lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))
    assert ours.weight(batch) == pytest.approx(float(sample["loss_weights"][1:][sample["labels"][1:] != -100].double().sum()))
    with pytest.raises(ConfigError, match="loss_fn does not heed"):
        objective_of(lambda logits, labels: logits.square().mean()).weight(batch)
