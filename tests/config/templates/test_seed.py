"""Every example of the specification's configuration guide, in front of a small stand-in for the library.

The files in ``seed/`` are the guide's own text. Those that are parts of a configuration get the line that extends the
library in front.
"""

import pathlib
import re

import pytest

from ironloom import config

SEED = pathlib.Path(__file__).parent / "seed"

TRAINER = """\
.tokenizer: &tokenizer !call:builtins:dict@tokenizer {}
.experiment_info: &experiment_info !dict {name: base}
.summary_writer: &summary_writer !call:builtins:list@writer
.test_prompts: &test_prompts !list:@test_prompts [The]
.generation_config: &generation_config !dict:@generation_config {do_sample: true}

trainer_args: &trainer_args !singleton:forgather.ml.trainer:TrainingArguments@trainer_args
-- block trainer_args
    output_dir: "base"
    logging_steps: 500
-- endblock trainer_args

optimizer: &optimizer
-- block optimizer
    !partial:torch.optim:AdamW {}
-- endblock optimizer

lr_scheduler: &lr_scheduler
-- block lr_scheduler
    ~
-- endblock lr_scheduler

data_collator: &data_collator
-- block data_collator
    ~
-- endblock data_collator

callbacks: &callbacks
-- block trainer_callbacks
    []
-- endblock trainer_callbacks

distributed_env:
-- block distributed_env
    ~
-- endblock distributed_env

main: !singleton:builtins:dict
    args: *trainer_args
    optimizer: *optimizer
    lr_scheduler: *lr_scheduler
    data_collator: *data_collator
    callbacks: *callbacks
"""
PROJECT = """\
-- block trainer_definition
-- include 'trainers/trainer.yaml'
-- endblock trainer_definition

-- block data_definition
data: 1
-- endblock data_definition
"""


@pytest.fixture
def library(folder):
    folder.write(TRAINER, "trainers/trainer.yaml")
    folder.write("-- extends 'trainers/trainer.yaml'\n", "trainers/accel_trainer.yaml")
    folder.write("-- extends 'trainers/trainer.yaml'\n", "trainers/pipeline_trainer.yaml")
    folder.write(PROJECT, "projects/base.yaml")
    folder.write(PROJECT, "projects/my_model.yaml")
    return folder


def seed(name):
    return (SEED / f"{name}.yaml").read_text()


def part(name):
    return "-- extends 'trainers/trainer.yaml'\n" + seed(name)


def args(graph):
    return graph.root["trainer_args"].kwargs


def test_there_are_as_many_examples_as_in_the_guide():
    assert len(list(SEED.glob("*.yaml"))) == 21


@pytest.mark.parametrize("name", ["minimal", "simple", "accel", "pipeline", "complete", "documented"])
def test_complete_configurations(library, name):
    graph = library.load(seed(name))
    assert graph.warnings == []
    assert graph.root["trainer_args"].target == "ironloom.settings:TrainingArguments"
    written = dict(re.findall(r"^    (?:    )?(\w+): *([^#\n]+?) *(?:#.*)?$", seed(name), re.MULTILINE))
    for key, text in written.items():
        if key in args(graph) and not isinstance(args(graph)[key], dict):
            assert str(args(graph)[key]).lower() == text.strip('"').lower()
    assert len(args(graph)) > 1


def test_super_keeps_what_is_not_set_again(library):
    assert "logging_steps" in args(library.load(seed("documented")))
    assert args(library.load(seed("simple"))) == {"output_dir": "./output", "per_device_train_batch_size": 16}


def test_the_pipeline_has_its_environment(library):
    graph = library.load(seed("pipeline"))
    assert args(graph)["split_spec"] == {"layer.4": "end", "layer.8": "end", "layer.12": "end"}
    assert graph.root["distributed_env"].name == "distributed_env"


def test_optimizer(library):
    node = library.load(part("optimizer")).root["main"].kwargs["optimizer"]
    assert (node.target, node.mode) == ("torch.optim:AdamW", "partial")
    assert node.kwargs == {"lr": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}
    assert config.check(library.load(part("optimizer"))) == []


def test_schedulers(library, shown):
    text = part("lr_scheduler")
    (problem,) = [problem for problem in config.check(library.load(text)) if "max_steps" in problem.message]
    assert shown(problem).startswith("main.yaml:5:29: lr_scheduler.num_training_steps: variable 'max_steps' has no value")
    graph = library.load(text, overrides=["trainer_args.max_steps=900"])
    assert graph.root["lr_scheduler"].kwargs == {"num_warmup_steps": 1000, "num_training_steps": 900}
    custom = library.load(part("custom_scheduler")).root["lr_scheduler"]
    assert custom.target == "ironloom.optim:InfiniteLRScheduler"
    assert custom.kwargs == {"warmup_steps": 5000, "cooldown_steps": 50000, "constant_lr": 1e-4}


def test_data_collator(library):
    node = library.load(part("data_collator")).root["data_collator"]
    assert node.target == "transformers:DataCollatorForLanguageModeling"
    assert node.kwargs["tokenizer"].name == "tokenizer" and node.kwargs["mlm"] is False


def test_callbacks(library):
    logger, textgen, json_logger = library.load(part("callbacks")).root["callbacks"]
    assert [node.target for node in (logger, textgen, json_logger)] == [
        "ironloom.callbacks:TBLogger",
        "ironloom.callbacks:TextgenCallback",
        "ironloom.callbacks:JsonLogger",
    ]
    assert logger.args[0].name == "writer" and logger.kwargs == {"experiment_info": {"name": "base"}}
    assert textgen.kwargs["summary_writer"] is logger.args[0]
    assert textgen.kwargs["prompts"] == ["The"] and textgen.kwargs["generation_steps"] == 1000
    assert json_logger.kwargs == {"name": "base"}


@pytest.mark.parametrize(("env", "size", "steps"), [("development", 8, 100), ("production", 32, 10000)])
def test_environment_specific(library, env, size, steps):
    text = part("environment_specific").replace('training_env = "development"', f'training_env = "{env}"')
    assert args(library.load(text)) == {"per_device_train_batch_size": size, "max_steps": steps}
    assert args(library.load(part("environment_specific"), overrides=[f"training_env={env}"]))["max_steps"] == steps


def test_conditional_checkpoints(library):
    text = part("conditional_checkpoints")
    assert args(library.load(text)) == {
        "output_dir": "base",
        "logging_steps": 500,
        "save_strategy": "steps",
        "save_steps": 500,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        "save_total_limit": 3,
    }
    assert args(library.load(text.replace("= true", "= false"))) == {"output_dir": "base", "logging_steps": 500, "save_strategy": "no"}


def files(name):
    """The files of an example that shows several, each behind a comment with its name."""
    found = re.split(r"^# (?:templates/)?([\w/]+\.yaml|Your specific config)$", seed(name), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_a_chain_of_templates(library, shown):
    parts = files("chain")
    assert list(parts) == ["base_trainer.yaml", "checkpointing_trainer.yaml", "my_project.yaml"]
    for name, text in parts.items():
        library.write(text, name)
    head = "trainer_args: !call:ironloom.settings:TrainingArguments\n"
    library.write(head + parts["base_trainer.yaml"], "base_trainer.yaml")
    graph = library.load(parts["my_project.yaml"])
    assert args(graph) == {
        "output_dir": "./my_model_output",
        "logging_steps": 500,
        "save_strategy": "steps",
        "save_steps": 100,
        "save_optimizer_state": True,
        "save_scheduler_state": True,
        "per_device_train_batch_size": 16,
    }
    assert [shown(step.origin).partition(":")[0] for step in graph.earlier["trainer_args", "save_strategy"]] == ["base_trainer.yaml"]
    assert [step.value for step in graph.earlier["trainer_args", "output_dir"]] == ["./output"]


def test_using_variables(library):
    text = part("using_variables")
    assert [problem.message for problem in config.check(library.load(text)) if "variable" in problem.message] == [
        "variable 'max_steps' has no value"
    ] * 2
    graph = library.load(text, overrides=["max_steps=1000"])
    assert args(graph) == {"output_dir": "./output_models/my_transformer", "learning_rate": 0.001}
    assert graph.root["lr_scheduler"].kwargs == {"num_warmup_steps": 100, "num_training_steps": 1000}


def test_shared_references(library):
    graph = library.load(part("shared_references"))
    (logger,) = graph.root["callbacks"]
    assert logger.args[0] is graph.root["summary_writer"]
    assert logger.kwargs == {"name": "My Training Experiment", "description": "Testing new architecture", "date": "2024-01-01"}
    assert graph.root["summary_writer"].args == ("./runs/experiment_001",)


def test_trainer_arguments_that_are_lost_and_the_solution(library, shown):
    problem, solution = seed("trainer_args_lost").split("# Solution: Use specific trainer configuration\n")
    graph = library.load(problem)
    assert "save_steps" not in args(graph)
    assert [shown(warning) for warning in graph.warnings] == [
        "main.yaml:3: the block 'trainer_args' overrides nothing (it is a block of 'trainers/trainer.yaml', which is only included: "
        "include a document that extends it)"
    ]
    # the solution as printed shows only the second half of the file
    graph = library.load("-- extends 'projects/base.yaml'\n" + solution)
    assert graph.warnings == []
    assert args(graph) == {"output_dir": "base", "logging_steps": 500, "save_steps": 100}


def test_an_undefined_variable_and_the_solutions(library):
    problem, solutions = part("undefined_variable").split("# Solution: Define or calculate variable\n")
    first, second = solutions.split("# OR\n")
    assert [problem.message for problem in config.check(library.load(problem))] == ["variable 'max_steps' has no value"]
    for solution in (first, second):
        graph = library.load(problem + solution)
        assert config.check(graph) == []
        assert graph.root["lr_scheduler"] == {"num_training_steps": 1000}


def test_reusable_bases(library):
    parts = files("inherit")
    assert list(parts) == ["base/training_base.yaml", "Your specific config"]
    library.write("trainer_args: !call:ironloom.settings:TrainingArguments\n" + parts["base/training_base.yaml"], "base/training_base.yaml")
    graph = library.load(parts["Your specific config"])
    assert args(graph) == {"logging_steps": 100, "eval_strategy": "steps", "eval_steps": 500, "output_dir": "./my_output"}


def test_separate_concerns(library):
    library.write("-- extends 'trainers/trainer.yaml'\n[trainer_args]\n    == super()\n    seed: 1\n", "training_config")
    library.write("data: 2\n", "data_config")
    graph = library.load(seed("separate"))
    assert (args(graph)["seed"], graph.root["data"], graph.warnings) == (1, 2, [])


def test_environment_variables(library, monkeypatch):
    for name in ("TRAINING_OUTPUT_DIR", "BATCH_SIZE"):
        monkeypatch.delenv(name, raising=False)
    text = part("environment_variables")
    assert args(library.load(text)) == {"output_dir": "./default_output", "per_device_train_batch_size": 16}
    monkeypatch.setenv("TRAINING_OUTPUT_DIR", "/runs")
    monkeypatch.setenv("BATCH_SIZE", "64")
    graph = library.load(text)
    assert args(graph) == {"output_dir": "/runs", "per_device_train_batch_size": 64}
    assert {graph.origins["trainer_args", key].route for key in args(graph)} == {"environment"}


def test_no_example_is_left_out():
    used = re.findall(r'(?:seed|part|files)\("(\w+)"\)', pathlib.Path(__file__).read_text())
    used += ["minimal", "simple", "accel", "pipeline", "complete", "documented"]
    assert set(used) == {file.stem for file in SEED.glob("*.yaml")}
