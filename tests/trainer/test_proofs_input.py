"""Odd models, data, batches and factories: they train as they should, or one message of the right class says what to change."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from ironloom import ConfigError, DataError, Trainer, TrainerCallback
from ironloom.data.collate import default_collate
from tiny import TinyLM, losses, tiny_lm, tiny_trainer, uneven_samples, weights

COLLATED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda samples: None, "must be a mapping.*found a NoneType"),
    (lambda samples: torch.zeros(2), "must be a mapping.*found a Tensor"),
    (lambda samples: (torch.zeros(2), torch.zeros(2)), "must be a mapping.*found a tuple"),
    (lambda samples: {}, "no tensor"),
    (lambda samples: {"input_ids": [[1, 2]], "labels": [[1, 2]]}, "no tensors, only 'input_ids' .list."),
    (lambda samples: {"input_ids": torch.zeros(2, 3).long()}, "no 'labels' to train on, only 'input_ids'"),
    (lambda samples: 1 / 0, "batch 0 of epoch 0 .* could not be collated: ZeroDivisionError"),
    (lambda samples: {"input_ids": torch.zeros(2, 3).to(torch.uint16), "labels": torch.zeros(2, 3).long()}, "input_ids are torch.uint16"),
]


@pytest.mark.parametrize(("collate", "message"), COLLATED)
def test_what_is_no_batch_is_named(collate: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        tiny_trainer(tmp_path, options={"data_collator": collate}).train()
    assert not list(tmp_path.glob("checkpoints/*"))


LABELS: list[tuple[Any, str]] = [
    (torch.rand(3), "labels are torch.float32, but classes and tokens are whole numbers"),
    (torch.zeros(3, 2).long(), r"labels of shape \(2, 3, 2\) do not fit logits of shape \(2, 3, 31\)"),
    (torch.zeros(5).long(), r"labels of shape \(2, 5\) do not fit logits of shape \(2, 3, 31\)"),
    (torch.tensor([0, 31, 0]), "label 31 is outside the model's 31 classes"),
]


@pytest.mark.parametrize(("labels", "message"), LABELS)
def test_labels_that_do_not_fit_are_named_in_training_and_evaluation(labels: torch.Tensor, message: str, tmp_path: Path) -> None:
    samples = [{"input_ids": torch.arange(3), "labels": labels}] * 2
    with pytest.raises(DataError, match=message):
        tiny_trainer(tmp_path, train=samples).train()
    with pytest.raises(DataError, match=message):
        tiny_trainer(tmp_path, evaluation=samples).evaluate()


class Indexed:
    """Has samples, but does not say how many."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return uneven_samples(4)[index]


DATA: list[tuple[Any, type[Exception], str]] = [
    (Indexed(), ConfigError, "Indexed has neither"),
    ([None] * 4, DataError, "a sample is a NoneType"),
    ([*uneven_samples(3), None], DataError, "could not be collated"),
    ({"a": uneven_samples(4)}, ConfigError, "found a mapping with 'a'"),
    ([(torch.arange(3), torch.arange(3))] * 4, DataError, "found a tuple"),
    ([{"input_ids": [1] * length, "labels": [1] * length} for length in (2, 5)], DataError, "differ in the shape of 'input_ids'"),
    (iter(uneven_samples(4)), ConfigError, "can be read only once"),
]


@pytest.mark.parametrize(("data", "kind", "message"), DATA)
def test_data_that_cannot_be_read_is_named(data: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        tiny_trainer(tmp_path, train=data).train()


@pytest.mark.parametrize("kind", [list, np.array, lambda ids: np.array(ids, dtype=np.int32)])
def test_samples_of_lists_arrays_and_tensors_train_alike(kind: Any, tmp_path: Path) -> None:
    samples = [{"input_ids": kind([1, 2, number]), "labels": kind([1, 2, number])} for number in range(4)]
    expected = [{key: torch.tensor(value) for key, value in sample.items()} for sample in samples]
    found = [tiny_trainer(tmp_path, model=tiny_lm(), train=data, max_steps=2) for data in (samples, expected)]
    for trainer in found:
        trainer.train()
    assert losses(found[0].state.log_history) == losses(found[1].state.log_history)


@pytest.mark.parametrize("kind", [transformers.BatchEncoding, UserDict])
def test_a_collator_may_return_any_mapping(kind: Any, tmp_path: Path) -> None:
    """A tokenizer's pad() returns a BatchEncoding, which is no dict."""
    args = {"eval_strategy": "steps", "eval_steps": 2, "include_num_input_tokens_seen": "non_padding"}
    plain = tiny_trainer(tmp_path, **args)
    other = tiny_trainer(tmp_path, options={"data_collator": lambda samples: kind(dict(default_collate(samples)))}, **args)
    for trainer in (plain, other):
        trainer.train()
    assert losses(plain.state.log_history) == losses(other.state.log_history)
    assert plain.evaluate()["eval_loss"] == other.evaluate()["eval_loss"]
    assert other.predict(uneven_samples(4)).predictions.shape == (4, 12, 31)


def test_predicting_data_without_labels(tmp_path: Path) -> None:
    unlabelled = [{"input_ids": sample["input_ids"]} for sample in uneven_samples(5)]
    trainer = tiny_trainer(tmp_path)
    output, labelled = trainer.predict(unlabelled), trainer.predict(uneven_samples(5))
    assert (output.predictions == labelled.predictions).all()
    assert output.label_ids is None
    assert "test_loss" not in output.metrics and "test_loss" in labelled.metrics
    with pytest.raises(DataError, match="no 'labels'"):
        trainer.evaluate(unlabelled)


class Logits(nn.Module):
    """A classifier as everybody writes it first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def classes(count: int = 8) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(4, generator=draw), "labels": torch.tensor(number % 3)} for number in range(count)]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"logits": x}, lambda x: (x,), lambda x: transformers.utils.ModelOutput(logits=x)])
def test_a_classifier_learns_the_label_of_its_own_sample(wrap: Any, tmp_path: Path) -> None:
    """One label a sample has no next token: nothing is shifted."""

    class Classifier(Logits):
        def forward(self, x: torch.Tensor) -> Any:
            return wrap(self.linear(x))

    torch.manual_seed(0)
    model, samples = Classifier(), classes()
    x, labels = torch.stack([sample["x"] for sample in samples]), torch.stack([sample["labels"] for sample in samples])
    expected = F.cross_entropy(model.linear(x), labels)
    (gradient,) = torch.autograd.grad(expected, model.linear.weight)
    assert tiny_trainer(tmp_path, model=model, evaluation=samples).evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-6)
    before = model.linear.weight.detach().clone()
    sgd = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1.0})}
    tiny_trainer(tmp_path, model=model, train=samples, options=sgd, gradient_accumulation_steps=4, max_steps=1, max_grad_norm=0).train()
    torch.testing.assert_close(before - model.linear.weight.detach(), gradient)


def outputs(make: Callable[[torch.Tensor], Any], **named: Any) -> nn.Module:
    class Model(TinyLM):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return make(super().forward(input_ids)["logits"])

    return Model()


MODELS: list[tuple[Callable[[], Any], str]] = [
    (lambda: outputs(lambda logits: None), "neither logits nor a loss, but a NoneType"),
    (lambda: outputs(lambda logits: {"prediction": logits}), "neither logits nor a loss, but a dict with 'prediction'"),
    (lambda: outputs(lambda logits: [logits]), "neither logits nor a loss, but a list"),
    (lambda: outputs(lambda logits: logits.detach()), "no gradient"),
    (lambda: nn.Identity().requires_grad_(False), "no trainable parameter"),
    (lambda: tiny_lm().requires_grad_(False), "no trainable parameter"),
    (lambda: tiny_lm().to("meta"), "meta device"),
    (lambda: "gpt2", "model must be a torch.nn.Module, found str"),
    (lambda: lambda input_ids: input_ids, "model must be a torch.nn.Module, found function"),
]


@pytest.mark.parametrize(("make", "message"), MODELS)
def test_a_model_that_cannot_be_trained_is_told_why(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_trainer(tmp_path, model=make()).train()


def test_training_where_gradients_are_switched_off_is_told(tmp_path: Path) -> None:
    with torch.no_grad(), pytest.raises(ConfigError, match="gradients are switched off"):
        tiny_trainer(tmp_path).train()


def test_model_init_that_returns_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_init must return a torch.nn.Module, it returned NoneType"):
        Trainer(model_init=lambda: None, args={"output_dir": tmp_path})  # type: ignore[arg-type, return-value]


FACTORIES: list[tuple[dict[str, Any], str]] = [
    ({"optimizer_factory": lambda parameters: None}, "must be a torch.optim.Optimizer, found NoneType"),
    ({"optimizer_factory": list}, "must be a torch.optim.Optimizer, found list"),
    ({"lr_scheduler_factory": lambda optimizer: 3}, "lr_scheduler_factory returned int"),
]


@pytest.mark.parametrize(("options", "message"), FACTORIES)
def test_factories_that_return_something_else(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_trainer(tmp_path, options=options).train()


def test_a_schedule_factory_may_return_none(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, options={"lr_scheduler_factory": lambda optimizer: None})
    trainer.train()
    assert {record["learning_rate"] for record in trainer.state.log_history if "loss" in record} == {0.01}
    assert tiny_trainer(tmp_path, options={"lr_scheduler_factory": lambda _: None}, resume_from_checkpoint=True).train().global_step == 6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lr_scheduler_type": "lineer"}, "lineer"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}}, "powr"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "set eval_strategy"),
    ],
)
def test_schedules_that_cannot_be_made(args: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_trainer(tmp_path, **args).train()


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, options={"optimizers": (torch.optim.SGD(tiny_lm().parameters(), lr=0.1), None)}, max_steps=1)
    with pytest.raises(ConfigError, match="none of the model's parameters: nothing would be trained"):
        trainer.train()


def test_frozen_and_unused_parameters_stay_as_they_are(tmp_path: Path) -> None:
    model = tiny_lm()
    model.embed.weight.requires_grad_(False)
    model.unused = nn.Linear(3, 3)
    before = weights(model)
    trainer = tiny_trainer(tmp_path, model=model, weight_decay=0.1, param_norm_log_interval="log", grad_norm_log_interval="log")
    trainer.train()
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert not changed & {"embed.weight", "unused.weight", "unused.bias"} and "head.weight" in changed
    again = tiny_lm()
    again.embed.weight.requires_grad_(False)
    again.unused = nn.Linear(3, 3)
    assert tiny_trainer(tmp_path, model=again, resume_from_checkpoint=True, max_steps=8).train().global_step == 8


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(31, 8, sparse=True), nn.Linear(8, 31)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(input_ids))


def test_sparse_gradients_train_without_clipping_and_are_named_with_it(tmp_path: Path) -> None:
    sgd = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.5})}
    with pytest.raises(ConfigError, match=r"gradient of embed.weight is sparse.*max_grad_norm"):
        tiny_trainer(tmp_path, model=Sparse(), options=sgd).train()
    trainer = tiny_trainer(tmp_path, model=Sparse(), options=sgd, max_grad_norm=0, max_steps=30)
    trainer.train()
    found = [loss for _, loss in losses(trainer.state.log_history)]
    assert found[-1] < found[0]


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ({"gradient_accumulation_steps": 50, "max_steps": -1, "num_train_epochs": 2}, 2),
        ({"per_device_train_batch_size": 500, "max_steps": -1, "num_train_epochs": 2}, 2),
        ({"max_steps": 40, "num_train_epochs": 1}, 40),
    ],
)
def test_more_is_asked_for_than_an_epoch_holds(args: dict[str, Any], steps: int, tmp_path: Path) -> None:
    assert tiny_trainer(tmp_path, **args).train().global_step == steps


def test_a_batch_size_that_drops_everything_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataloader_drop_last"):
        tiny_trainer(tmp_path, per_device_train_batch_size=500, dataloader_drop_last=True).train()


def test_evaluation_batches_of_no_sample(tmp_path: Path) -> None:
    """A collator that filters may leave nothing of a batch: such a batch counts nothing."""

    def filtered(samples: list[Any]) -> dict[str, torch.Tensor]:
        batch = default_collate(samples)
        odd = batch["input_ids"][:, 0] % 2 == 1
        return {key: value[odd] for key, value in batch.items()}

    samples = uneven_samples(8)
    odd = [sample for sample in samples if sample["input_ids"][0] % 2 == 1]
    assert 0 < len(odd) < 8
    options = {"data_collator": filtered}
    one = tiny_trainer(tmp_path, evaluation=samples, options=options, per_device_eval_batch_size=1).evaluate()["eval_loss"]
    assert one == pytest.approx(tiny_trainer(tmp_path, evaluation=odd).evaluate()["eval_loss"], rel=1e-6)


class Metric:
    """Returns what NumPy code returns: numbers of its own kinds."""

    def __call__(self, prediction: Any) -> dict[str, Any]:
        return {"share": np.float32(0.5), "count": np.int64(3), "tensor": torch.tensor(0.25), "table": np.arange(3)}


def test_metrics_may_be_numbers_of_numpy_and_torch(tmp_path: Path) -> None:
    """transformers takes them; a JSON file does not, so they are turned into plain numbers."""
    trainer = tiny_trainer(
        tmp_path, options={"compute_metrics": Metric()}, eval_strategy="steps", eval_steps=2, metric_for_best_model="share"
    )
    trainer.train()
    record = next(record for record in trainer.state.log_history if "eval_share" in record)
    assert [(type(record[f"eval_{name}"]), record[f"eval_{name}"]) for name in ("share", "count", "tensor")] == [
        (float, 0.5),
        (int, 3),
        (float, 0.25),
    ]
    assert len((tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()) == len(trainer.state.log_history)


def test_several_evaluation_sets_during_training(tmp_path: Path) -> None:
    sets = {"a": uneven_samples(4), "b": uneven_samples(6, seed=1)}
    args = {"eval_strategy": "steps", "eval_steps": 2}
    trainer = tiny_trainer(tmp_path, evaluation=sets, load_best_model_at_end=True, metric_for_best_model="b_loss", **args)
    trainer.train()
    found = [record["eval_b_loss"] for record in trainer.state.log_history if "eval_b_loss" in record]
    assert len(found) == 3 and trainer.state.best_metric == min(found)
    steered = tiny_trainer(tmp_path / "total", evaluation=sets, lr_scheduler_type="reduce_lr_on_plateau", **args)
    steered.train()
    assert steered.lr_scheduler.best == min(record["eval_loss"] for record in steered.state.log_history if "eval_loss" in record)
    with pytest.raises(ConfigError, match="no 'eval_c_loss'; it gives eval_a_loss"):
        tiny_trainer(tmp_path / "none", evaluation=sets, metric_for_best_model="c_loss", **args).train()


class Overflows(TinyLM):
    """Its second forward pass gives no numbers."""

    passes = 0

    def forward(self, input_ids: torch.Tensor) -> Any:
        self.passes += 1
        logits = super().forward(input_ids)["logits"]
        return logits * float("nan") if self.passes == 2 else logits


@pytest.mark.parametrize("precision", [{}, {"fp16": True}, {"bf16": True}])
@pytest.mark.parametrize("limit", [1.0, 0])
def test_a_skipped_step_leaves_nothing_behind(precision: dict[str, bool], limit: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = tiny_trainer(tmp_path, model=Overflows(), nonfinite_policy="skip", max_grad_norm=limit, **precision)
    trainer.train()
    assert [step for step, _ in losses(trainer.state.log_history)] == [1, 3, 4, 5, 6]
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


class Unstorable(TinyLM):
    def get_extra_state(self) -> Any:
        return {"scale": 1}

    def set_extra_state(self, state: Any) -> None:
        raise AssertionError("never saved")


class Complex(Logits):
    def __init__(self) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.ones(4, dtype=torch.complex64))


@pytest.mark.parametrize(("model", "message"), [(Unstorable, "_extra_state .of get_extra_state."), (Complex, "rotation: .*complex64")])
def test_a_model_that_cannot_be_saved_is_refused_before_training(model: Any, message: str, tmp_path: Path) -> None:
    steps = []
    options = {"callbacks": [type("Steps", (TrainerCallback,), {"on_step_begin": lambda *args, **kwargs: steps.append(1)})]}
    with pytest.raises(ConfigError, match=message):
        tiny_trainer(tmp_path, model=model(), options=options).train()
    assert steps == []


def test_such_a_model_trains_where_nothing_is_saved(tmp_path: Path) -> None:
    assert tiny_trainer(tmp_path, model=Unstorable(), save_strategy="no").train().global_step == 6
