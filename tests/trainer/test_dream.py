"""The trainer to subclass: runs taken up again, validation, epochs, seeds; without hooks it is the run of its configuration."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import dreams
from dreams import Duel, Pictures, Regression, Steady, configured, history, images, losses, points
from ironloom import ConfigError, DreamTrainer
from ironloom.errors import NonFiniteError
from tiny import assert_same_weights, weights


class Shuffled(Regression):
    """The user's own loader, which shuffles with a generator of its own."""

    def configure_dataloaders(self) -> Any:
        order = torch.Generator()
        return DataLoader(points(), batch_size=4, shuffle=True, generator=order), points(7, seed=1)


class ShuffledByChance(Regression):
    """One that shuffles by the global generator."""

    def configure_dataloaders(self) -> Any:
        return DataLoader(points(), batch_size=4, shuffle=True), points(7, seed=1)


@pytest.mark.parametrize("kind", [Regression, Shuffled, ShuffledByChance, Pictures, Duel])
def test_a_run_that_was_interrupted_is_the_same_run(kind: Any, tmp_path: Path) -> None:
    """Left within an epoch and within a window of the log, and taken up by a new trainer."""
    options = {"log_every_n_steps": 3}
    whole = kind(configured(tmp_path / "whole", **options))
    whole.fit()
    first = kind(configured(tmp_path / "parts", {"exit_steps": 4}, **options))
    assert first.fit().global_step == 4
    for number in itertools.count():
        rest = kind(configured(tmp_path / "parts", {"exit_steps": 7} if number == 0 else {}, **options))
        rest.fit()
        if rest.state.global_step == whole.state.global_step:
            break
        assert number < 2
    assert history(rest)[:-1] == history(whole)[:-1]
    assert_same_weights(weights(rest.model), weights(whole.model))
    for mine, theirs in zip(rest.named_optimizers().values(), whole.named_optimizers().values(), strict=True):
        assert str(mine.state_dict()["state"]) == str(theirs.state_dict()["state"])
        assert mine.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


def test_the_trainer_without_hooks_is_the_run_of_its_configuration(tmp_path: Path) -> None:
    """Through ``ironloom train``'s graph, through the defaults, and with a step that calls the default one: the same bits."""
    from ironloom import config

    file = tmp_path / "run.py"
    file.write_text(
        "from ironloom import DreamTrainerConfig\n"
        "from ironloom.configs import CheckpointParameters, DataParameters, ModelConfig, TrainingParameters\n"
        "shape = dict(num_layers=1, d_model=16, d_ffn=32, num_attention_heads=2, head_dim=8, max_seq_len=16, dropout_mlp=0.1)\n"
        "config = DreamTrainerConfig(\n"
        "    model=ModelConfig(**shape, tokenizer_type='byte', vocab_name_or_path=None),\n"
        "    data=DataParameters(train_datasets=['python-docs'], splits=[0.95, 0.05, 0.0]),\n"
        "    training_parameters=TrainingParameters(n_epochs=1, train_steps_per_epoch=8, log_every_n_steps=1, val_every_n_steps=4,\n"
        "        gradient_accumulation_steps=2, num_sanity_val_steps=2, warmup_steps=2),\n"
        f"    checkpoint_parameters=CheckpointParameters(root_dir={str(tmp_path)!r}, checkpoint_every_n_steps=8),\n"
        "    trainer_args={'disable_tqdm': True, 'resume_from_checkpoint': False},\n"
        ")\n"
    )
    graph = config.load(file)
    assert config.check(graph) == []
    ours = config.build(graph, "main")
    ours.train()

    class Calling(DreamTrainer):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)

    from ironloom.configs import DreamTrainerConfig

    for kind in (DreamTrainer, Calling):
        trainer = kind(DreamTrainerConfig.from_file(str(file)))
        trainer.fit()
        assert history(trainer)[:-1] == history(ours)[:-1]
        assert len(losses(trainer)) == 8
        assert_same_weights(weights(trainer.model), weights(ours.model))


def test_validation_is_exact_over_samples_and_disturbs_nothing(tmp_path: Path) -> None:
    trainer = Pictures(configured(tmp_path, val_batch_size=4, num_sanity_val_steps=2))
    trainer.fit()
    metrics = trainer.evaluate()
    trainer.classifier.eval()
    pictures = torch.stack([image["picture"] for image in images(9)])
    kinds = torch.stack([image["kind"] for image in images(9)])
    with torch.no_grad():
        logits = trainer.classifier(pictures)
    each = F.cross_entropy(logits, kinds, reduction="none")
    assert metrics["eval_loss"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(1) == kinds).float().mean().item())
    assert metrics["eval_sure"] == pytest.approx(logits.softmax(1).amax(1).mean().item(), rel=1e-5)
    other = Pictures(configured(tmp_path / "other", val_frequency=0.4))
    other.fit()
    assert losses(other) == losses(trainer)
    assert_same_weights(weights(other.model), weights(trainer.model))


def test_metrics_of_torchmetrics(tmp_path: Path) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")

    class Measured(Steady):
        def configure_metrics(self) -> None:
            self.error = torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError(), torchmetrics.MeanSquaredError()])

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.error.update(self.net(batch[0]), batch[1])

    trainer = Measured(configured(tmp_path, n_epochs=1))
    trainer.fit()
    metrics = trainer.evaluate()
    inputs, targets = (torch.stack(list(column)) for column in zip(*points(7, seed=1), strict=True))
    assert metrics["eval_error/MeanSquaredError"] == pytest.approx(F.mse_loss(trainer.net(inputs), targets).item(), rel=1e-5)
    assert "eval_loss" not in metrics


def test_epochs_and_cadences_follow_the_data_of_the_hook(tmp_path: Path) -> None:
    trainer = Regression(configured(tmp_path, n_epochs=2, val_frequency=0.5, log_every_n_steps=100))
    trainer.fit()
    assert trainer.state.max_steps == 6
    assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [0, 2, 4, 6]
    rates = trainer.lr_scheduler.get_last_lr()
    assert rates == pytest.approx([trainer.config.training_parameters.learning_rate / 10] * len(rates))


def test_a_model_from_the_meta_device_is_given_values(tmp_path: Path) -> None:
    class Meta(Regression):
        def configure_models(self) -> None:
            with torch.device("meta"):
                super().configure_models()

    class Odd(Meta):
        def post_configure_models(self) -> None:
            self.net.register_parameter("bias", nn.Parameter(torch.empty(2, device="meta")))

    class Right(Odd):
        def init_weights(self) -> None:
            nn.init.zeros_(self.net.bias)

    for kind in (Meta, Right):
        trainer = kind(configured(tmp_path / kind.__name__, n_epochs=1))
        assert math.isfinite(trainer.fit().training_loss)
    with pytest.raises(ConfigError, match=r"net\.bias have no values after init_weights"):
        Odd(configured(tmp_path)).fit()


def test_numbers_that_are_not_finite_stop_the_run_before_the_step(tmp_path: Path) -> None:
    class Failing(Duel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            made = self.maker(batch[0])
            loss = self.judge(made).mean() * (math.nan if self.global_step == 5 else 1)
            self.backward(loss)
            if not self.is_accumulating_gradients:
                for optimizer in self.named_optimizers().values():
                    self.step(optimizer)

    trainer = Failing(configured(tmp_path))
    with pytest.raises(NonFiniteError, match="step 6: this optimizer was not stepped"):
        trainer.fit()
    assert [checkpoint.step for checkpoint in trainer.checkpoints.complete()] == [4, 5]
    skipping = configured(tmp_path / "skip")
    skipping.device_parameters.error_if_nonfinite = False
    trainer = Failing(skipping)
    trainer.fit()
    assert trainer.state.log_history[-1]["step"] == 15
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_statistics_of_batch_norm_and_a_frozen_teacher(tmp_path: Path) -> None:
    class Taught(Steady):
        def configure_models(self) -> None:
            self.student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
            self.teacher = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.9)).eval().requires_grad_(False)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.student.parameters(), lr=0.01)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.mse_loss(self.student(batch[0]), self.teacher(batch[0]))

    trainer = Taught(configured(tmp_path))
    trainer.fit()
    assert not trainer.teacher.training
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert trainer.student[1].num_batches_tracked == 30
    again = Taught(configured(tmp_path))
    again.fit()
    assert_same_weights(weights(again.model), weights(trainer.model))


def test_shorter_epochs_go_on_through_the_data(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    class Noting(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if torch.is_grad_enabled():
                seen.extend((batch_idx, float(inputs[0])) for inputs in batch[0])
            return super().training_step(batch, batch_idx)

    trainer = Noting(configured(tmp_path, n_epochs=3, train_steps_per_epoch=2))
    trainer.fit()
    assert trainer.state.global_step == 6
    assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [0, 2, 4, 6]
    everything = sorted(float(inputs[0]) for inputs, _ in points())
    for epoch in (seen[: dreams.SAMPLES], seen[dreams.SAMPLES :]):
        assert sorted(value for _, value in epoch) == everything
        assert [index for index, _ in epoch] == [place // 4 for place in range(dreams.SAMPLES)]


def test_a_seed_of_zero_is_a_seed(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        config = configured(tmp_path / name, n_epochs=1)
        config.seed = 0
        trainer = Regression(config)
        trainer.fit()
        found.append(losses(trainer))
    other = Regression(configured(tmp_path / "other", n_epochs=1))
    other.fit()
    assert found[0] == found[1] != losses(other)
