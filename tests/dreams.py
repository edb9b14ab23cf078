"""Trainers of one's own on small data that is no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ironloom import DreamTrainer, DreamTrainerConfig
from ironloom.configs import CheckpointParameters, DeviceParameters, TrainingParameters

SAMPLES = 23


def points(count: int = SAMPLES, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Samples of a regression: four numbers and two targets."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=draw)
    targets = torch.stack([inputs.sum(1), inputs.square().sum(1)], dim=1)
    return list(zip(inputs, targets, strict=True))


def images(count: int = SAMPLES) -> list[dict[str, torch.Tensor]]:
    """Pictures of 1 x 6 x 6 in three classes."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    pictures = torch.randn(count, 1, 6, 6, generator=draw) + labels.reshape(-1, 1, 1, 1)
    return [{"picture": picture, "kind": kind} for picture, kind in zip(pictures, labels, strict=True)]


def configured(folder: Path | str, args: dict[str, Any] | None = None, devices: DeviceParameters | None = None, **training: Any) -> Any:
    """A configuration in float32 that logs each step and saves every fourth."""
    values = {"n_epochs": 5, "train_batch_size": 4, "gradient_accumulation_steps": 2, "log_every_n_steps": 1, "learning_rate": 0.01}
    return DreamTrainerConfig(
        seed=3,
        training_parameters=TrainingParameters(**{**values, **training}),
        checkpoint_parameters=CheckpointParameters(root_dir=str(folder), checkpoint_every_n_steps=4, keep_top_k=-1),
        device_parameters=devices or DeviceParameters(param_dtype="float32"),
        trainer_args={"disable_tqdm": True, "adam_epsilon": 1e-4, **(args or {})},
    )


class Regression(DreamTrainer):
    """Mean squared error of a perceptron, with dropout."""

    dropout = 0.1

    def configure_models(self) -> None:
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(8, 2))

    def configure_dataloaders(self) -> Any:
        return points(), points(7, seed=1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        outputs = self.net(inputs)
        return {"loss": F.mse_loss(outputs, targets), "mae": (outputs - targets).abs().mean()}


class Steady(Regression):
    """The same without dropout, its order that of the data."""

    dropout = 0.0

    def configure_dataloaders(self) -> Any:
        return DataLoader(points(), batch_size=4), DataLoader(points(7, seed=1), batch_size=3)


class Accuracy:
    """A metric as users write them; unites with those of other processes."""

    def __init__(self) -> None:
        self.reset()

    def update(self, right: torch.Tensor) -> None:
        self.right += int(right.sum())
        self.count += len(right)

    def compute(self) -> float:
        return self.right / self.count

    def reset(self) -> None:
        self.right = self.count = 0

    def merge_state(self, others: list[Accuracy]) -> None:
        self.right += sum(other.right for other in others)
        self.count += sum(other.count for other in others)


class Pictures(DreamTrainer):
    """A small convolutional classifier of blocks, with an optimizer and a schedule of its own."""

    def configure_models(self) -> None:
        layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()) for _ in range(2)]
        self.classifier = _Classifier(layers)

    def configure_dataloaders(self) -> Any:
        return images(), images(9)

    def configure_optimizers(self) -> Any:
        self.optimizer = torch.optim.SGD(self.classifier.parameters(), lr=0.1, momentum=0.9)

    def configure_schedulers(self) -> Any:
        return {self.optimizer: torch.optim.lr_scheduler.StepLR(self.optimizer, 5, 0.5)}

    def configure_metrics(self) -> None:
        self.accuracy = Accuracy()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.classifier(batch["picture"]), batch["kind"])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.classifier(batch["picture"])
        self.accuracy.update(logits.argmax(1) == batch["kind"])
        losses = F.cross_entropy(logits, batch["kind"], reduction="none")
        return {"loss": (losses.sum(), len(losses)), "sure": logits.softmax(1).amax(1).mean()}


class _Classifier(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        hidden = self.first(picture)
        for layer in self.layers:
            hidden = hidden + self.scale * layer(hidden)
        logits: torch.Tensor = self.head(hidden.mean((2, 3)))
        return logits


class Duel(DreamTrainer):
    """Two models with an optimizer and a schedule each, stepped by hand, as adversaries are."""

    def configure_models(self) -> None:
        self.maker = nn.Linear(4, 2)
        self.judge = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def configure_dataloaders(self) -> Any:
        return points(), None

    def configure_optimizers(self) -> Any:
        return {
            self.maker: torch.optim.Adam(self.maker.parameters(), lr=0.02, eps=1e-4),
            self.judge: torch.optim.SGD(self.judge.parameters(), lr=0.05, momentum=0.9),
        }

    def configure_schedulers(self) -> Any:
        return {name: torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for name, each in self.named_optimizers().items()}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        made = self.maker(inputs)
        judged = F.softplus(self.judge(made.detach())).mean() + F.softplus(-self.judge(targets)).mean()
        self.backward(judged)
        if not self.is_accumulating_gradients:
            self.log("judge_norm", self.step(self.named_optimizers()["judge"]))
        fooled = F.softplus(-self.judge(made)).mean()
        self.backward(fooled)
        if not self.is_accumulating_gradients:
            self.step(self.named_optimizers()["maker"])
        return {"loss": judged + fooled, "judged": judged}


def history(trainer: DreamTrainer) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    timed = ("runtime", "per_second", "mib")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in trainer.state.log_history]


def losses(trainer: DreamTrainer) -> list[float]:
    """Those of the steps, as they were logged."""
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


class OwnOptimizer(Steady):
    """With an optimizer of its own, and no schedule."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
