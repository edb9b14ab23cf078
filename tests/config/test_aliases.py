"""Dotted paths of the specification and what is ours for each."""

import pytest

from ironloom.config import aliases, static
from ironloom.config.graph import target_parts


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("forgather.ml.trainer:Trainer", "ironloom.trainer:Trainer"),
        ("forgather.ml:Trainer", "ironloom.trainer:Trainer"),
        ("forgather.ml:TrainingArguments", "ironloom.settings:TrainingArguments"),
        ("forgather.ml.trainer_types:TrainingArguments", "ironloom.settings:TrainingArguments"),
        ("forgather.ml.trainer_types:AbstractBaseTrainer", "ironloom.trainer:AbstractBaseTrainer"),
        ("forgather.ml.base_trainer:BaseTrainer", "ironloom.trainer:BaseTrainer"),
        ("forgather.ml.trainer.trainer:Trainer", "ironloom.trainer:Trainer"),
        ("dream_trainer:DreamTrainerConfig", "ironloom:DreamTrainerConfig"),
        ("dream_trainer:DreamTrainer", "ironloom.trainer.dream:DreamTrainer"),
        ("dream_trainer.trainer:DreamTrainer", "ironloom.trainer.dream:DreamTrainer"),
        ("dream_trainer.configs:DeviceParameters", "ironloom.settings:DeviceParameters"),
        ("dream_trainer.configs:TrainingParameters", "ironloom.configs:TrainingParameters"),
        ("forgather.ml:PipelineTrainer", "ironloom.trainer:PipelineTrainer"),
        ("forgather.ml.pipeline_trainer:PipelineTrainingArguments", "ironloom.settings:PipelineTrainingArguments"),
        ("forgather.ml.distributed:DistributedEnvironment", "ironloom.parallel:DistributedEnvironment"),
        ("forgather:from_project", "ironloom.config.projects:from_project"),
        ("ironloom:Trainer", "ironloom.trainer:Trainer"),
        ("ironloom.trainer:Trainer", "ironloom.trainer:Trainer"),
        ("torch.optim:AdamW", "torch.optim:AdamW"),
        ("forgatherer:x", "forgatherer:x"),
        ("/folder/forgather.py:x", "/folder/forgather.py:x"),
        ("no colon", "no colon"),
    ],
)
def test_targets(theirs, ours):
    assert aliases.canonical(theirs) == ours
    assert aliases.canonical(ours) == ours


def test_modules():
    assert aliases.resolve("forgather.ml.optim.infinite_lr_scheduler") == "ironloom.optim"
    assert aliases.resolve("forgather.ml.sharded_checkpoint") == "ironloom.sharded_checkpoint"
    assert aliases.resolve("numpy") == "numpy"


def test_every_home_defines_its_names():
    missing = set()
    for module, names in aliases.HOMES.items():
        for name in names:
            try:
                static.signature(f"{module}:{name}")
            except static.NotFoundError:
                missing.add(f"{module}:{name}")
    assert not missing


def test_every_module_of_ours_exists():
    modules = set(aliases.MODULES.values())
    assert {module for module in modules if not static.is_module(module)} == set()
    assert target_parts("a.b:c.d") == ("a.b", "c.d")
