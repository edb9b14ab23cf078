"""The best checkpoint is found, protected and loaded, in every odd case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ironloom import Trainer, TrainerCallback
from ironloom.weights import load_weights
from tiny import assert_same_weights, tiny_lm, uneven_samples, weights


class ScriptedLoss(Trainer):
    """A trainer whose evaluations give the losses of a list, so that the best step is known."""

    script: list[float]

    def _evaluate(self, eval_dataset: Any, prefix: str, stop: Any) -> dict[str, float] | None:
        metrics = super()._evaluate(eval_dataset, prefix, stop)
        assert metrics is not None
        done = sum("eval_loss" in record for record in self.state.log_history)
        metrics["eval_loss"] = self.script[done - 1]
        return metrics


class KeepWeights(TrainerCallback):
    def __init__(self) -> None:
        self.at: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.at[state.global_step] = weights(model)


def run(folder: Path, script: list[float], **args: Any) -> tuple[ScriptedLoss, KeepWeights]:
    keep = KeepWeights()
    options = {
        "output_dir": folder,
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "max_steps": len(script),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "learning_rate": 0.01,
        "load_best_model_at_end": True,
        **args,
    }
    trainer = ScriptedLoss(tiny_lm(), options, train_dataset=uneven_samples(20), eval_dataset=uneven_samples(4), callbacks=[keep])
    trainer.script = script
    trainer.train()
    return trainer, keep


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("limit", [1, 2, 3, None])
@pytest.mark.parametrize("best", [1, 3, 6])
def test_the_best_is_loaded_and_never_deleted(limit: int | None, best: int, tmp_path: Path) -> None:
    script = [5.0 + step for step in range(6)]
    script[best - 1] = 1.0
    trainer, keep = run(tmp_path, script, save_total_limit=limit)
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == 1.0
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoints" / f"checkpoint-{best}")
    assert_same_weights(weights(trainer.model), keep.at[best])
    expected = {1: {best, 6}, 2: {best, 6} if best != 6 else {5, 6}, None: set(range(1, 7))}
    if limit in expected:
        assert set(kept(tmp_path)) == expected[limit]


def test_the_best_step_is_saved_though_no_save_was_due(tmp_path: Path) -> None:
    trainer, keep = run(tmp_path, [5.0, 1.0, 6.0, 7.0, 8.0], save_steps=100)
    assert kept(tmp_path) == [2, 5]
    assert_same_weights(weights(trainer.model), keep.at[2])


def test_not_a_number_is_never_best(tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, [float("nan"), 3.0, float("nan")])
    assert trainer.state.best_global_step == 2


def test_all_not_a_number_keeps_the_last_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, keep = run(tmp_path, [float("nan")] * 2)
    assert_same_weights(weights(trainer.model), keep.at[2])
    assert "keeps the weights of the last step" in caplog.text


def test_greater_is_better(tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, [1.0, 3.0, 2.0], greater_is_better=True, metric_for_best_model="loss")
    assert trainer.state.best_global_step == 2


def test_the_first_of_equals_is_best(tmp_path: Path) -> None:
    assert run(tmp_path, [2.0, 2.0, 2.0])[0].state.best_global_step == 1


def test_best_survives_a_restart(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 3.0], save_total_limit=1)
    trainer, _ = run(tmp_path, [1.0, 3.0, 4.0, 5.0], save_total_limit=1, resume_from_checkpoint=True)
    assert trainer.state.best_global_step == 1
    assert kept(tmp_path) == [1, 4]


def test_a_damaged_best_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Damage(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                file = tmp_path / "checkpoints" / "checkpoint-1" / "model.safetensors"
                content = bytearray(file.read_bytes())
                content[-1] ^= 1
                file.write_bytes(content)

    args = {
        "output_dir": tmp_path,
        "disable_tqdm": True,
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "load_best_model_at_end": True,
    }
    trainer = ScriptedLoss(tiny_lm(), args, train_dataset=uneven_samples(), eval_dataset=uneven_samples(4), callbacks=[Damage])
    trainer.script = [1.0, 2.0]
    trainer.train()
    assert "not there or damaged" in caplog.text


def test_an_unknown_metric_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"eval_accuracy.*eval_loss"):
        run(tmp_path, [1.0], metric_for_best_model="accuracy")


def test_compute_metrics_ranks(tmp_path: Path) -> None:
    """A metric of the user's, from logits and labels of all batches."""
    seen = []

    def metrics(prediction: Any) -> dict[str, float]:
        logits, labels = prediction
        seen.append((logits.shape, labels.shape))
        return {"accuracy": float((logits.argmax(-1) == labels).mean())}

    args = {
        "output_dir": tmp_path,
        "disable_tqdm": True,
        "max_steps": 2,
        "per_device_eval_batch_size": 3,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "accuracy",
    }
    trainer = Trainer(tiny_lm(), args, train_dataset=uneven_samples(), eval_dataset=uneven_samples(7), compute_metrics=metrics)
    trainer.train()
    assert seen == [((7, 12, 31), (7, 12))] * 2
    values = [record["eval_accuracy"] for record in trainer.state.log_history if "eval_accuracy" in record]
    assert trainer.state.best_metric == max(values)


def test_tied_weights_are_loaded_tied(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    args = {"output_dir": tmp_path, "disable_tqdm": True, "max_steps": 3, "save_steps": 1, "learning_rate": 0.01}
    Trainer(model, args, train_dataset=uneven_samples()).train()
    torch.manual_seed(1)
    other = transformers.GPT2LMHeadModel(config)
    load_weights(tmp_path / "checkpoints" / "checkpoint-3", other)
    assert other.lm_head.weight is other.transformer.wte.weight
    assert_same_weights(weights(model), weights(other))
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "checkpoint-3")
    assert_same_weights(weights(model), weights(read))
