"""What a trainer of one's own cannot do is refused by name, with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dreams import Duel, OwnOptimizer, Pictures, Steady, configured, losses, points
from ironloom import ConfigError, DreamTrainer


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
