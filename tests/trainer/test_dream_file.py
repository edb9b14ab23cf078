"""A configuration file with a trainer of its own: its graph, its run.yaml, its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreams import history
from ironloom import ConfigError, config
from ironloom.config import tagged
from tiny import assert_same_weights, weights

FILE = """
import torch
from torch import nn
from torch.nn import functional as F
from ironloom import DreamTrainer, DreamTrainerConfig
from ironloom.configs import CheckpointParameters, DeviceParameters, TrainingParameters


class Regression(DreamTrainer):
    def configure_models(self):
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))

    def configure_dataloaders(self):
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        samples = [(each, each.sum().reshape(1)) for each in inputs]
        return samples[:48], samples[48:]

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1])


config = DreamTrainerConfig(
    training_parameters=TrainingParameters(n_epochs=2, val_frequency=0.5, log_every_n_steps=1),
    checkpoint_parameters=CheckpointParameters(root_dir="FOLDER"),
    device_parameters=DeviceParameters(param_dtype="float32"),
    trainer_args={"disable_tqdm": True, "resume_from_checkpoint": False},
)
"""


def written(folder: Path, text: str = FILE) -> Path:
    file = folder / "run.py"
    file.write_text(text.replace("FOLDER", str(folder / "output")))
    return file


def test_the_file_its_run_yaml_and_a_script_are_one_run(tmp_path: Path) -> None:
    graph = config.load(written(tmp_path))
    assert config.check(graph) == []
    (tmp_path / "run.yaml").write_text(tagged.dump(graph))
    again = config.load(tmp_path / "run.yaml")
    assert config.check(again) == []
    trainers = [config.build(each, "main") for each in (graph, again)]
    script = type(trainers[0])(trainers[0].config)
    for trainer in (*trainers, script):
        trainer.train()
        assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [0, 3, 6, 9, 12]
    for trainer in (trainers[1], script):
        assert history(trainer)[:-1] == history(trainers[0])[:-1]
        assert_same_weights(weights(trainer.model), weights(trainers[0].model))


def test_overrides_reach_the_trainer(tmp_path: Path) -> None:
    overrides = ["training_parameters.n_epochs=1", "trainer_args.eval_steps=4", "training_parameters.learning_rate=0.5"]
    trainer = config.build(config.load(written(tmp_path), overrides), "main")
    trainer.train()
    assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [0, 4, 6]
    assert trainer.state.log_history[1]["learning_rate"] == 0.5


def test_steps_and_epochs_of_one_interval_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(tagged.dump(config.load(written(tmp_path))))
    with pytest.raises(ConfigError, match="eval_steps: given in args as steps and in epochs"):
        config.build(config.load(tmp_path / "run.yaml", ["trainer_args.eval_steps=4"]), "main")


def test_mistakes_are_found_in_the_file(tmp_path: Path) -> None:
    two = FILE.replace("\n\nconfig", "\n\nclass Other(DreamTrainer):\n    pass\n\n\nconfig")
    with pytest.raises(ConfigError, match="there are 2 trainers in the file: Regression, Other"):
        config.load(written(tmp_path, two))
    with pytest.raises(ConfigError, match=r"run\.py:23:.*did you mean 'n_epochs'"):
        config.load(written(tmp_path, FILE.replace("n_epochs=2", "n_epoch=2")))
