"""Every configuration that is shipped loads; the library's templates are whole; one run written in two styles is one run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ironloom import config
from ironloom.config import projects
from ironloom.config.graph import Calc, Node, Var, is_leaf, walk
from ironloom.config.projects.meta import LIBRARY

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def project_folders():
    return sorted(path.parent for path in EXAMPLES.rglob("meta.yaml"))


def project_configurations():
    return [file for folder in project_folders() for file in projects.read(folder).configs.values()]


def test_how_many_projects_and_configurations_there_are():
    assert [str(folder.relative_to(EXAMPLES)) for folder in project_folders()] == [
        "tiny_experiments/checkpointing",
        "trainers/distributed",
        "trainers/pipeline",
        "trainers/simple",
    ]
    assert sorted(file.name for file in project_configurations()) == [
        "accelerate.yaml",
        "best.yaml",
        "blocks.yaml",
        "blocks.yaml",
        "checkpointing.yaml",
        "minimal.yaml",
        "minimal.yaml",
        "train.yaml",
    ]
    templates = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.yaml"))
    assert templates == [
        "meta_defaults.yaml",
        "projects/base.yaml",
        "trainers/accel_trainer.yaml",
        "trainers/pipeline_trainer.yaml",
        "trainers/trainer.yaml",
    ]


@pytest.mark.parametrize("file", project_configurations(), ids=lambda file: f"{file.parents[2].name}-{file.stem}")
def test_every_example_is_right_and_says_what_it_is(file):
    graph = config.load(file)
    assert (config.check(graph), graph.warnings) == ([], [])
    assert not [value for _, value in walk(graph.root["main"]) if isinstance(value, (Var, Calc))]
    assert re.match(r"# \S", file.read_text())
    for leaf, value in walk(graph.root):
        assert not is_leaf(value) or graph.origin(leaf) is not None
    for option in projects.declared(file):
        assert option.settings["help"]


@pytest.mark.parametrize("name", ["trainers/trainer.yaml", "trainers/accel_trainer.yaml", "projects/base.yaml"])
def test_templates_that_are_runs_by_themselves(name, write):
    graph = config.load(write(f"-- extends '{name}'\n"))
    assert (config.check(graph), graph.warnings) == ([], [])
    assert list(graph.root) == [
        "log_level",
        "data",
        "tokenizer",
        "train_dataset",
        "eval_dataset",
        "test_dataset",
        "data_collator",
        "model",
        "optimizer",
        "lr_scheduler",
        "trainer_callbacks",
        "trainer_args",
        "main",
    ]


BLOCKS = {
    "data_definition": ("data", "!singleton:shop:Data"),
    "tokenizer": ("tokenizer", "!singleton:shop:Tokenizer"),
    "train_dataset": ("train_dataset", "!singleton:shop:Train"),
    "eval_dataset": ("eval_dataset", "!singleton:shop:Eval"),
    "test_dataset": ("test_dataset", "!singleton:shop:Test"),
    "data_collator": ("data_collator", "!partial:shop:collate"),
    "model_definition": ("model", "!partial:shop:model"),
    "optimizer": ("optimizer", "!partial:shop:optimizer"),
    "lr_scheduler": ("lr_scheduler", "!partial:shop:schedule"),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_holds_in_the_trainer_and_in_the_project(block, write):
    target, value = BLOCKS[block]
    text = f"-- block {block}\n    {value}\n-- endblock\n"
    inner = "-- block trainer_definition\n-- include 'inner'\n-- endblock\n#---- inner ----\n-- extends 'trainers/trainer.yaml'\n"
    wanted = value.partition(":")[2]
    for configuration in (
        "-- extends 'trainers/trainer.yaml'\n" + text,
        "-- extends 'projects/base.yaml'\n" + text,
        "-- extends 'projects/base.yaml'\n" + text + inner,
        "-- extends 'projects/base.yaml'\n" + text.replace("shop", "other") + inner + text,
    ):
        graph = config.load(write(configuration))
        assert graph.warnings == []
        assert graph.root[target].target == wanted
        used = {value.target for _, value in walk(graph.root) if isinstance(value, Node)}
        assert not any(name.startswith("other") for name in used)


def test_super_in_a_project_and_in_its_trainer(write):
    text = """\
-- extends 'projects/base.yaml'
-- block trainer_callbacks
    - 1
-- endblock
-- block trainer_definition
-- include 'inner'
-- endblock
#---- inner ----
-- extends 'trainers/trainer.yaml'
-- block trainer_callbacks
    == super()
    - 2
-- endblock
"""
    assert config.load(write(text)).root["main"].kwargs["callbacks"] == [1, 2]


def test_classes_of_ones_own(write):
    text = "-- set trainer_class = 'shop:Trainer'\n-- set args_class = 'shop:Arguments'\n"
    more = "-- block trainer_constructor\n    extra: 1\n-- endblock\n"
    main = config.load(write("-- extends 'trainers/trainer.yaml'\n" + text + more)).root["main"]
    assert (main.target, main.kwargs["args"].target, main.kwargs["extra"]) == ("shop:Trainer", "shop:Arguments", 1)


def test_one_setting_is_the_length_of_samples_and_model(write):
    for graph in (
        config.load(write("-- extends 'trainers/trainer.yaml'\n-- set seq_length = 32\n")),
        config.load(write("-- extends 'trainers/trainer.yaml'\n"), ["seq_length=32"]),
    ):
        assert graph.root["data"].kwargs["seq_length"] == graph.root["model"].kwargs["config"].kwargs["max_seq_len"] == 32


def test_defaults_are_those_of_the_trainer_arguments(write):
    """Nothing but what the data needs is set: any other default is the specification's, which its settings class has."""
    graph = config.load(write("-- extends 'trainers/trainer.yaml'\n"))
    assert graph.root["trainer_args"].kwargs == {"remove_unused_columns": False}
    args = config.build(graph, "trainer_args")
    assert (args.logging_steps, args.save_steps, args.per_device_train_batch_size, args.output_dir) == (500, 500, 16, "tmp_trainer")


def test_checking_a_template_imports_no_torch(write):
    path = write("-- extends 'projects/base.yaml'\n")
    code = f"import sys; from ironloom import config; assert not config.check(config.load({path!r})); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


OWN = """\
-- extends 'trainers/trainer.yaml'
-- block data_definition
    null
-- endblock
-- block tokenizer
    null
-- endblock
-- block train_dataset
    !singleton:own.py:samples
-- endblock
-- block eval_dataset
    null
-- endblock
-- block test_dataset
    null
-- endblock
-- block data_collator
    null
-- endblock
-- block model_definition
    !partial:own.py:Bigram [9]
-- endblock
-- block trainer_args
    output_dir: out
    max_steps: 2
    save_strategy: "no"
-- endblock
"""
OWN_CODE = """
import torch
from torch import nn

def samples():
    ids = torch.arange(6)
    return [{"input_ids": ids, "labels": ids}] * 4

class Bigram(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size, size)

    def forward(self, input_ids):
        return {"logits": self.table(input_ids)}
"""


def test_data_and_model_of_ones_own_train_by_command(write, tmp_path):
    path = write(OWN, **{"own.py": OWN_CODE})
    command = [sys.executable, "-c", "from ironloom.cli import main; main()", "train", path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2" in done.stdout
    again = [*command[:-1], str(tmp_path / "out/run.yaml"), "main.args.output_dir=again"]
    done = subprocess.run(again, cwd=tmp_path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_examples_run_from_any_clone(tmp_path, small_text, monkeypatch):
    """The command of the README, for a moment, in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from ironloom.cli import main; main()",
        "train",
        str(EXAMPLES / "tiny_experiments/checkpointing"),
        "--max-steps",
        "2",
    ]
    small = [f"data.train_datasets=[{small_text / 'text.txt'}]", "data.vocab_size=300", "trainer_args.save_steps=1"]
    environment = {**os.environ, "IRONLOOM_CACHE": str(small_text / "cache")}
    for steps in ("2", "3"):
        command[-1] = steps
        done = subprocess.run([*command, *small], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{steps} of {steps}" in done.stdout
    kept = {path.name for path in (tmp_path / "output/checkpointing/checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
