"""The trainer to subclass: its losses are those of a loop by hand, and of the other trainers; a kill changes nothing."""

from __future__ import annotations

import copy
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
from dreams import Duel, Pictures, Regression, Steady, configured, history, images, points
from ironloom import ConfigError, DreamTrainer
from ironloom.errors import NonFiniteError
from tiny import assert_same_weights, weights


def losses(trainer: DreamTrainer) -> list[float]:
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: float = 1.0) -> tuple[list[float], list[float]]:
    """Losses and norms of a plain loop: mean squared error over all samples of a step, epochs of 23 samples in fours."""
    found, norms = [], []
    batches = [points()[start : start + 4] for start in range(0, dreams.SAMPLES, 4)]
    windows = itertools.cycle([batches[start : start + 2] for start in range(0, len(batches), 2)])
    for window in itertools.islice(windows, steps):
        samples = [sample for batch in window for sample in batch]
        outputs = net(torch.stack([inputs for inputs, _ in samples]))
        loss = F.mse_loss(outputs, torch.stack([targets for _, targets in samples]))
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), clip).item())
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, norms


class OwnOptimizer(Steady):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)


def test_losses_and_norms_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    trainer = OwnOptimizer(configured(tmp_path))
    trainer.set_up()
    net = copy.deepcopy(trainer.net)
    trainer.fit()
    found, norms = by_hand(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 15)
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    assert [record["grad_norm"] for record in trainer.state.log_history if "loss" in record] == pytest.approx(norms, rel=1e-5)
    for mine, theirs in zip(trainer.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


class Weighted(OwnOptimizer):
    """Counts only some samples: what a batch weighs is known after its forward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        counted = inputs[:, 0] > -0.5
        return F.mse_loss(self.net(inputs), targets, reduction="none").mean(1)[counted].sum(), counted.sum()


def test_a_sum_and_its_weight_are_divided_over_the_whole_step(tmp_path: Path) -> None:
    trainer = Weighted(configured(tmp_path, n_epochs=1))
    trainer.set_up()
    net = copy.deepcopy(trainer.net)
    trainer.fit()
    samples = [sample for sample in points()[:8] if sample[0][0] > -0.5]
    loss = F.mse_loss(net(torch.stack([inputs for inputs, _ in samples])), torch.stack([targets for _, targets in samples]))
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in net.parameters()]).item()
    first = trainer.state.log_history[1]
    assert len(samples) not in (0, 8)
    assert (first["loss"], first["grad_norm"]) == pytest.approx((loss.item(), norm), rel=1e-5)
    assert trainer.state.num_target_tokens_seen == sum(bool(inputs[0] > -0.5) for inputs, _ in points())


def test_adversaries_stepped_by_hand_are_a_loop_by_hand(tmp_path: Path) -> None:
    trainer = Duel(configured(tmp_path, gradient_clip_val=0.5, gradient_accumulation_steps=1, n_epochs=2))
    trainer.configure_dataloaders = lambda: (DataLoader(points(), batch_size=4), None)  # type: ignore[method-assign]
    trainer.set_up()
    maker, judge = copy.deepcopy(trainer.maker), copy.deepcopy(trainer.judge)
    trainer.fit()
    one = torch.optim.Adam(maker.parameters(), lr=0.02, eps=1e-4)
    two = torch.optim.SGD(judge.parameters(), lr=0.05, momentum=0.9)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in (one, two)]
    found = []
    for start in [*range(0, 23, 4)] * 2:
        inputs, targets = (torch.stack(list(column)) for column in zip(*points()[start : start + 4], strict=True))
        made = maker(inputs)
        judged = F.softplus(judge(made.detach())).mean() + F.softplus(-judge(targets)).mean()
        judged.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 0.5)
        two.step()
        two.zero_grad()
        fooled = F.softplus(-judge(made)).mean()
        fooled.backward()
        nn.utils.clip_grad_norm_(maker.parameters(), 0.5)
        one.step()
        one.zero_grad()
        two.zero_grad()
        for schedule in schedules:
            schedule.step()
        found.append((judged + fooled).item())
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    for mine, theirs in zip(trainer.maker.parameters(), maker.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    record = next(record for record in trainer.state.log_history if "loss" in record)
    assert record["judge_norm"] > 0 and record["judged"] < record["loss"]


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


class Alone(Steady):
    """Without data to validate on."""

    def configure_dataloaders(self) -> Any:
        return points(), None


class TwiceBack(Alone):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        self.backward(loss)
        self.backward(loss)


class OwnBack(Alone):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        loss.backward()
        return loss


class EarlyStep(Alone):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.backward(super().training_step(batch, batch_idx)["loss"])
        self.step(self.named_optimizers()["optimizer"])


class NoLoss(Alone):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


class ManyLosses(Alone):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.net(batch[0]), batch[1], reduction="none")


class BackInValidation(Steady):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.backward(super().training_step(batch, batch_idx)["loss"])


class OwnBackInValidation(Steady):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)["loss"].backward()


class Clash(Steady):
    def configure_models(self) -> None:
        self.model, self.teacher = nn.Linear(1, 1), nn.Linear(1, 1)


class NoModel(Steady):
    def configure_models(self) -> None:
        pass


class Foreign(Steady):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)


class Stages(Steady):
    def apply_pipeline_parallel(self, pp_mesh: Any) -> None:
        pass


class Shared(Duel):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.maker.parameters(), lr=1), torch.optim.Adam(self.maker.parameters())]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (TwiceBack, "propagated this loss back already"),
        (OwnBack, r"propagated this loss back already.*self\.backward"),
        (EarlyStep, "ask self.is_accumulating_gradients"),
        (NoLoss, "training_step returned no loss"),
        (ManyLosses, r"training_step returned a tensor of \(4, 2\)"),
        (BackInValidation, r"backward\(\) belongs into training_step.*write validation_step"),
        (OwnBackInValidation, "training_step calls backward.*write validation_step"),
        (Clash, "none may be called model"),
        (NoModel, "assigned no model"),
        (Foreign, "holds no parameter of the models"),
        (Stages, "leave pipelines to the PipelineTrainer"),
        (Shared, "two optimizers hold the same parameter"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(configured(tmp_path)).fit()


def test_hooks_that_nobody_calls_and_settings_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    class Old(Steady):
        def model_state_dict(self) -> dict[str, Any]:
            return {}

    with pytest.raises(ConfigError, match="model_state_dict"):
        Old(configured(tmp_path))
    with pytest.raises(ConfigError, match="has no effect on an optimizer of configure_optimizers"):
        OwnOptimizer(configured(tmp_path, warmup_steps=2)).fit()
    with pytest.raises(ConfigError, match="there is no data to validate on"):
        Duel(configured(tmp_path, num_sanity_val_steps=2)).fit()


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


class TwoRates(Steady):
    """Two models that one loss trains, by an optimizer each; the second has a schedule and waits for nothing."""

    def configure_models(self) -> None:
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2)

    def configure_dataloaders(self) -> Any:
        return DataLoader(points(), batch_size=4), {"near": points(7, seed=1), "far": points(5, seed=2)}

    def configure_optimizers(self) -> Any:
        self.slow = torch.optim.SGD(self.body.parameters(), lr=0.01)
        return [self.slow, torch.optim.Adam(self.head.parameters(), lr=0.01, eps=1e-4)]

    def configure_schedulers(self) -> Any:
        return {self.slow: torch.optim.lr_scheduler.ExponentialLR(self.slow, 0.5)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.head(self.body(batch[0])), batch[1])


def test_two_optimizers_are_stepped_together(tmp_path: Path) -> None:
    trainer = TwoRates(configured(tmp_path, {"exit_steps": 5}))
    trainer.set_up()
    body, head = copy.deepcopy(trainer.body), copy.deepcopy(trainer.head)
    trainer.fit()
    trainer = TwoRates(configured(tmp_path))
    trainer.fit()

    class Both(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for optimizer in both:
                optimizer.step()
            schedule.step()

    slow = torch.optim.SGD(body.parameters(), lr=0.01)
    both = [slow, torch.optim.Adam(head.parameters(), lr=0.01, eps=1e-4)]
    schedule = torch.optim.lr_scheduler.ExponentialLR(slow, 0.5)
    net = nn.Sequential(body, head)
    found, norms = by_hand(net, Both(net.parameters(), lr=1.0), 15)
    assert losses(trainer) == pytest.approx(found, rel=1e-5)
    assert [record["grad_norm"] for record in trainer.state.log_history if "loss" in record] == pytest.approx(norms, rel=1e-5)
    assert {"eval_near_loss", "eval_far_loss"} <= trainer.evaluate().keys()
    assert trainer.slow.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**15)


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


def test_settings_of_devices_that_a_step_does_not_read_are_refused(tmp_path: Path) -> None:
    config = configured(tmp_path)
    trainer = Steady(config)
    trainer.parameters.reduce_dtype = "bfloat16"
    with pytest.raises(ConfigError, match=r"not available with a training_step.*: reduce_dtype"):
        trainer.fit()
    classifier = Pictures(config)
    classifier.parameters.checkpoint_activations = True
    assert losses_of(classifier) == losses_of(Pictures(configured(tmp_path / "plain")))


def losses_of(trainer: DreamTrainer) -> list[float]:
    trainer.args.resume_from_checkpoint = False
    trainer.fit()
    return losses(trainer)
