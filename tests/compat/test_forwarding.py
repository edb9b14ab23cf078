"""Scripts that import the seeds' packages run on Ironloom, from the one table of aliases."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from ironloom.config import aliases

COMPAT = Path(__file__).parents[2] / "compat"


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(COMPAT / "src")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_everything_in_the_folder_is_part_of_the_distribution() -> None:
    project = tomllib.loads((COMPAT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted(f"src/{path.name}" for path in (COMPAT / "src").iterdir() if (path / "__init__.py").exists())
    assert {module.partition(".")[0] for module in aliases.MODULES} < {Path(package).name for package in packages}


def test_the_names_are_those_of_ironloom() -> None:
    code = """
import forgather.ml
import ironloom
from dream_trainer import DreamTrainer, DreamTrainerConfig, callbacks
from dream_trainer.trainer import DreamTrainer as TheSameDream
from dream_trainer.configs import DeviceParameters
from forgather.ml import Trainer, TrainingArguments
from forgather.ml.json_logger import JsonLogger
from forgather.ml.optim.infinite_lr_scheduler import InfiniteLRScheduler
from forgather.ml.tb_logger import TBLogger
from forgather.ml.trainer import Trainer as TheSame
from forgather.ml.trainer.callbacks import TextgenCallback
from forgather.ml import trainer
import ironloom.callbacks, ironloom.optim, ironloom.configs

assert DreamTrainer is TheSameDream is ironloom.DreamTrainer
assert Trainer is TheSame is ironloom.Trainer is forgather.ml.Trainer is trainer.Trainer
assert TrainingArguments is ironloom.TrainingArguments
assert (JsonLogger, TBLogger, TextgenCallback) == (
    ironloom.callbacks.JsonLogger, ironloom.callbacks.TBLogger, ironloom.callbacks.TextgenCallback)
assert InfiniteLRScheduler is ironloom.optim.InfiniteLRScheduler
assert DeviceParameters is ironloom.configs.DeviceParameters
assert callbacks.CallbackCollection is ironloom.callbacks.CallbackCollection
assert not hasattr(forgather.ml, "nothing") and "Trainer" in dir(forgather.ml)
from dream_trainer.callbacks import *
assert CallbackCollection is callbacks.CallbackCollection
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_importing_costs_nothing() -> None:
    code = "import sys, forgather.ml.trainer, dream_trainer.callbacks; assert 'torch' not in sys.modules"
    done = run(code)
    assert done.returncode == 0, done.stderr


MISTAKES = {
    "from forgather.ml import Trainr": "there is no 'Trainr' in forgather.ml; did you mean 'Trainer'?",
    "from dream_trainer.configs import DeviceParameter": "did you mean 'DeviceParameters'?",
    "import dream_trainer.callback": "there is no 'callback' in dream_trainer",
    "import forgather.ml.trainer.nothing.at_all": "there is no 'nothing' in forgather.ml.trainer",
}


def test_a_name_that_does_not_exist_names_the_nearest() -> None:
    tries = [
        f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)\nelse:\n    print('imported')" for statement in MISTAKES
    ]
    done = run("\n".join(tries))
    assert done.returncode == 0, done.stderr
    for said, line in zip(MISTAKES.values(), done.stdout.splitlines(), strict=True):
        assert said in line


def test_the_modules_of_the_table_that_exist_can_be_imported() -> None:
    """Each alias whose module of ours is there; those of features that are still to come are not counted."""
    import importlib.util

    there = [name for name, ours in aliases.MODULES.items() if importlib.util.find_spec(ours) is not None]
    done = run(f"import importlib\nfor name in {there!r}:\n    importlib.import_module(name)\nprint({len(there)})")
    assert done.returncode == 0, done.stderr
    assert len(there) >= 20
