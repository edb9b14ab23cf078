"""The specification's examples that build on the library: they train, or fail as it says."""

import importlib.util
import re
import sys
import types

import pytest

from ironloom import config
from ironloom.parallel import fits

TRAINER = "-- extends 'trainers/trainer.yaml'\n"


def arguments(graph):
    return graph.root["trainer_args"].kwargs


@pytest.fixture
def writers(monkeypatch):
    """A stand-in for the package tensorboard, which is optional; what is written to it, by folder."""
    written = {}

    class SummaryWriter:
        def __init__(self, log_dir):
            self.rows = written.setdefault(log_dir, [])

        def __getattr__(self, name):
            return lambda *args, **kwargs: self.rows.append((name, *args))

    import torch.utils

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(torch.utils, "tensorboard", module, raising=False)
    from ironloom.callbacks import tb_logger

    monkeypatch.setattr(tb_logger, "require", lambda *_: None)
    return written


@pytest.mark.parametrize("name", ["minimal", "simple_trainer"])
def test_the_minimal_configurations_train(name, seed, write, train):
    trainer = train(write(seed(name)))
    assert trainer.state.global_step == 2
    assert (trainer.args.output_dir, trainer.args.save_steps) == ("./output", 500)


def test_the_complete_configuration_trains_with_all_that_it_says(seed, write, train):
    trainer = train(write(seed("complete")), "trainer_args.dataloader_num_workers=1", "trainer_args.eval_steps=1")
    args = trainer.args
    assert (args.output_dir, args.logging_dir) == ("./output_models/my_model", "./output_models/my_model/runs")
    assert (args.num_train_epochs, args.logging_steps, args.save_steps, args.save_total_limit) == (5, 50, 500, 3)
    assert args.save_optimizer_state and args.save_scheduler_state and args.dataloader_pin_memory
    assert [record["step"] for record in trainer.state.log_history if "eval_loss" in record] == [1, 2]


def test_the_accelerate_configuration_trains_with_what_it_says(seed, write, train):
    trainer = train(write(seed("accelerate_trainer")))
    assert type(trainer).__name__ == "AccelTrainer" and trainer.state.global_step == 2
    assert trainer.args.accelerator_args == {"device_placement": True, "split_batches": False, "dispatch_batches": True}
    assert trainer.accelerator.num_processes == 1


def test_the_documented_configuration_trains_with_accelerate(seed, write, train):
    trainer = train(write(seed("document_configuration")))
    assert type(trainer).__name__ == "AccelTrainer"
    assert (trainer.args.num_train_epochs, trainer.args.save_total_limit, trainer.args.save_optimizer_state) == (5, 5, True)


def test_the_pipeline_configuration_is_right_for_four_processes(seed, write, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    graph = config.load(write(seed("pipeline_trainer")))
    assert arguments(graph)["split_spec"] == {"layer.4": "end", "layer.8": "end", "layer.12": "end"}
    assert graph.root["main"].kwargs["distributed_env"] is graph.root["distributed_env"]
    assert graph.root["distributed_env"].target == "ironloom.parallel:DistributedEnvironment"
    assert config.check(graph) == []
    assert fits.problems(graph, 4) == []
    (problem,) = fits.problems(graph, 2)
    assert "3 cuts make 4 stages, but pipeline_parallel_size 2 x stages_per_rank 1 are 2" in problem.message


def test_the_pipeline_configuration_trains_in_one_process(seed, write, train):
    text = seed("pipeline_trainer")
    trainer = train(write(text))
    assert type(trainer).__name__ == "PipelineTrainer"
    assert (trainer.state.global_step, trainer.args.pipeline_chunks, trainer.args.checkpoint_sequential) == (2, 4, True)


ARGUMENTS = "-- block trainer_args\n    max_steps: 3\n    logging_steps: 1\n-- endblock\n"


def test_an_optimizer_block(seed, write, train):
    import torch

    trainer = train(write(TRAINER + seed("optimizer") + ARGUMENTS))
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert (trainer.optimizer.defaults["weight_decay"], trainer.optimizer.defaults["betas"]) == (0.01, (0.9, 0.999))


def test_a_schedule_block_takes_the_steps_of_the_trainer_arguments(seed, write, train):
    graph_text = TRAINER + seed("lr_scheduler") + ARGUMENTS
    trainer = train(write(graph_text), "lr_scheduler.num_warmup_steps=1", "trainer_args.max_steps=4")
    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert rates[-1] < 5e-5 and trainer.state.max_steps == 4, "the schedule sees the override too"


def test_the_custom_schedule(seed, write, train):
    trainer = train(write(TRAINER + seed("custom_scheduler") + ARGUMENTS))
    assert type(trainer.lr_scheduler).__name__ == "InfiniteLRScheduler"


def test_a_data_collator_of_transformers(seed, write, train):
    trainer = train(write(TRAINER + seed("data_collator") + ARGUMENTS))
    assert type(trainer.data_collator).__name__ == "DataCollatorForLanguageModeling"
    assert trainer.data_collator.tokenizer is trainer.processing_class


def test_callbacks_share_what_the_library_defines(seed, write, train, writers):
    text = TRAINER + seed("callbacks") + ARGUMENTS
    trainer = train(
        write(text), "trainer_args.output_dir=here", "trainer_callbacks.1.generation_steps=2", "trainer_callbacks.1.max_new_tokens=2"
    )
    kinds = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert kinds[-3:] == ["TBLogger", "TextgenCallback", "JsonLogger"]
    (rows,) = writers.values()
    assert list(writers) == ["here"], "beside the run, where no logging_dir is set"
    assert {"train/loss", "experiment/name", "textgen/0"} <= {row[1] for row in rows if len(row) > 1}


@pytest.mark.parametrize("level", [TRAINER, "-- extends 'projects/base.yaml'\n"])
def test_shared_references_of_the_configuration_itself_count(level, seed, write, train, writers):
    train(write(level + seed("shared_references")))
    assert list(writers) == ["./runs/experiment_001"]
    texts = {row[1]: row[2] for row in writers["./runs/experiment_001"] if row[0] == "add_text"}
    assert texts["experiment/name"] == "My Training Experiment" and texts["experiment/date"] == "2024-01-01"


def test_without_tensorboard_the_error_names_the_package(seed, write, load, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name, *rest))
    file = write(TRAINER + seed("callbacks") + ARGUMENTS)
    found = config.check(config.load(file))
    assert any("needs the package tensorboard, which is not installed" in problem.message for problem in found)
    assert [problem.origin.line for problem in found if problem.origin.source == file] == [5]


@pytest.mark.parametrize(("environment", "batch", "steps"), [("development", 8, 100), ("production", 32, 10000)])
def test_environments_choose_sizes(environment, batch, steps, seed, write):
    text = seed("environment_specific").replace('training_env = "development"', f'training_env = "{environment}"')
    found = arguments(config.load(write(TRAINER + text)))
    assert (found["per_device_train_batch_size"], found["max_steps"]) == (batch, steps)


@pytest.mark.parametrize("on", [True, False])
def test_conditional_checkpoints(on, seed, write, train):
    text = seed("conditional_checkpoints").replace("enable_checkpointing = true", f"enable_checkpointing = {str(on).lower()}")
    trainer = train(write(TRAINER + text), "checkpoint_frequency=1")
    assert trainer.args.save_strategy == ("steps" if on else "no")
    assert len(list(trainer.checkpoints.root.glob("*-*"))) == (2 if on else 0)


def test_a_chain_of_templates(seed, write, train):
    parts = re.split(r"^# (\S+\.yaml)\n", seed("inheritance_chain"), flags=re.MULTILINE)
    files = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(files) == ["base_trainer.yaml", "checkpointing_trainer.yaml", "my_project.yaml"]
    files["base_trainer.yaml"] = TRAINER + files["base_trainer.yaml"]
    path = write(files.pop("my_project.yaml"), "my_project.yaml", **files)
    args = train(path).args
    assert (args.output_dir, args.logging_steps, args.save_strategy, args.save_steps) == ("./my_model_output", 500, "steps", 100)


def test_variables_in_texts_arguments_and_calculations(seed, write, train):
    trainer = train(write(TRAINER + seed("variables")), "max_steps=20", "trainer_args.max_steps=20")
    assert (trainer.args.output_dir, trainer.args.learning_rate) == ("./output_models/my_transformer", 1e-3)
    schedule = config.load(write(TRAINER + seed("variables")), ["trainer_args.max_steps=20"]).root["lr_scheduler"].kwargs
    assert schedule == {"num_warmup_steps": 2, "num_training_steps": 20}


def test_variables_that_nothing_defines_are_named(seed, write):
    problems = config.check(config.load(write(TRAINER + seed("variables"))))
    assert {problem.path for problem in problems} == {"lr_scheduler.num_warmup_steps", "lr_scheduler.num_training_steps"}
    assert all("max_steps" in problem.message for problem in problems)


def test_a_block_for_the_trainer_in_a_project_is_warned_about(seed, write):
    problem, solution = seed("inheritance_problem").split("# Solution: Use specific trainer configuration\n")
    graph = config.load(write(problem))
    (warning,) = graph.warnings
    assert "the block 'trainer_args' overrides nothing" in warning.message and "trainers/trainer.yaml" in warning.hint
    assert "save_steps" not in arguments(graph), "as the specification says"
    solved = config.load(write("-- extends 'projects/base.yaml'\n" + solution))
    assert solved.warnings == [] and arguments(solved)["save_steps"] == 100


def test_a_missing_variable_and_both_solutions(seed, write):
    _, _, solutions = seed("missing_dependencies").partition("# Solution: Define or calculate variable\n")
    first, _, second = solutions.partition("# OR\n")
    schedule = "-- block lr_scheduler\n    !partial:transformers:get_linear_schedule_with_warmup\n        num_warmup_steps: 1\n"
    schedule += '        num_training_steps: !var "max_steps"  # max_steps not defined\n-- endblock lr_scheduler\n'
    (problem,) = config.check(config.load(write(TRAINER + schedule)))
    assert "'max_steps'" in problem.message and problem.origin.line == 5
    for solution in (first, second):
        graph = config.load(write(TRAINER + solution + schedule))
        assert config.check(graph) == [] and graph.root["lr_scheduler"].kwargs["num_training_steps"] == 1000


def test_a_base_of_ones_own(seed, write, train):
    base, _, own = seed("use_inheritance").partition("# Your specific config\n")
    path = write(own, **{"base/training_base.yaml": TRAINER + base})
    args = train(path).args
    assert (args.output_dir, args.logging_steps, args.eval_strategy, args.eval_steps) == ("./my_output", 100, "steps", 500)


def test_concerns_in_documents_of_their_own(seed, write, train):
    documents = """
#-------------------- training_config --------------------
-- extends 'trainers/trainer.yaml'
-- block trainer_args
    output_dir: "./separate"
-- endblock
#-------------------- data_config --------------------
    !singleton:ironloom.data:PretrainData@data
        train_datasets: [python-docs]
        tokenizer_type: bbpe
        vocab_name_or_path: null
        vocab_size: 300
        seq_length: {{ seq_length | default(8) }}
"""
    path = write(seed("separate_concerns") + documents, **{"projects/my_model.yaml": "-- extends 'projects/base.yaml'\n"})
    trainer = train(path)
    assert trainer.args.output_dir == "./separate"
    assert config.load(path).root["data"].kwargs["seq_length"] == 8


def test_the_environment_is_read(seed, write, monkeypatch):
    text = TRAINER + seed("environment_variables")
    assert arguments(config.load(write(text)))["output_dir"] == "./default_output"
    monkeypatch.setenv("TRAINING_OUTPUT_DIR", "/elsewhere")
    monkeypatch.setenv("BATCH_SIZE", "3")
    found = arguments(config.load(write(text)))
    assert (found["output_dir"], found["per_device_train_batch_size"]) == ("/elsewhere", 3)
