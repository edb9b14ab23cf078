"""Configurations in other words become ours where the meaning is clear; nothing that says something is lost silently."""

import json

import pytest
import yaml

from ironloom import config
from ironloom.config import migrate, source, transformers_words
from ironloom.config.graph import Graph
from ironloom.errors import ConfigError
from ironloom.settings.groups import GROUPS

ARGUMENTS = {
    "output_dir": "out",
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 1e-4,
    "weight_decay": 0.1,
    "adam_beta2": 0.98,
    "max_grad_norm": 0.5,
    "max_steps": 200,
    "warmup_ratio": 0.1,
    "lr_scheduler_type": "cosine",
    "logging_steps": 7,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "save_steps": 0.5,
    "seed": 7,
    "bf16": True,
    "dataloader_num_workers": 2,
    "optim": "adamw_torch_fused",
}


@pytest.fixture
def migrated(tmp_path):
    def migrated(values, name="training_args.json"):
        file = tmp_path / name
        file.write_text(json.dumps(values) if name.endswith("json") else values)
        return migrate.migrate(file)

    return migrated


def test_what_is_clear_is_taken(migrated):
    made = migrated(ARGUMENTS)
    assert made.left_out == []
    assert made.groups == {
        "trainer": {
            "model_path": "out", "micro_batch_size": 4, "eval_batch_size": 2, "gradient_accumulation_steps": 3, "num_workers": 2,
            "log_interval": 7, "save_checkpoint_steps": 100, "do_eval": True,
        },
        "optim": {
            "max_lr": 1e-4, "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_eps": 1e-8, "clip_grad": 0.5,
            "warmup_steps": 20, "lr_scheduler": "cosine", "optimizer": "adamw", "no_decay_on_embedding": False,
        },
        "init": {"seed": 7},
        "operation": {"train_steps": 200, "eval_interval": 50},
        "model": {"precision": "bfloat16"},
    }  # fmt: skip


def test_the_result_is_a_configuration(migrated, write):
    text = migrated(ARGUMENTS).text()
    whole = text + "data: {train_datasets: [python-docs]}\n"
    graph = config.load(write(whole, "new.yaml"))
    assert config.check(graph) == []
    args = graph.root["trainer_args"].kwargs
    for name in ("output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "logging_steps", "seed", "bf16"):
        assert args[name] == ARGUMENTS[name]
    assert graph.root["lr_scheduler"].kwargs["warmup_steps"] == 20


def test_defaults_of_the_other_tool_are_written_out(migrated):
    """They are not ours: leaving them to ours would change the run."""
    groups = migrated({"output_dir": "out", "max_steps": 10}).groups
    assert groups["optim"]["max_lr"] == 5e-5
    assert groups["optim"]["lr_scheduler"] == "linear"
    assert groups["optim"]["adam_beta2"] == 0.999
    assert groups["trainer"]["micro_batch_size"] == 8
    assert groups["model"]["precision"] == "float32"
    assert groups["init"]["seed"] == 42


def test_the_defaults_are_those_of_the_other_tool():
    transformers = pytest.importorskip("transformers")
    fields = transformers.TrainingArguments.__dataclass_fields__
    for name, value in transformers_words.DEFAULTS.items():
        assert fields[name].default == value or fields[name].default is None, name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_train_epochs": 2}, "groups count optimizer steps"),
        ({"eval_strategy": "epoch", "max_steps": 5}, "groups evaluate every operation.eval_interval steps"),
        ({"save_strategy": "epoch", "max_steps": 5}, "groups save every trainer.save_checkpoint_steps steps"),
        ({"lr_scheduler_type": "polynomial", "max_steps": 5}, "groups have of these linear, cosine, constant, inverse_sqrt"),
        ({"optim": "adafactor", "max_steps": 5}, "groups have of these adamw, adamw_8bit"),
        ({"gradient_checkpointing": True, "max_steps": 5}, "there is no key of this meaning"),
        (
            {"load_best_model_at_end": True, "max_steps": 5},
            "groups have no such key; trainer_args.load_best_model_at_end of a run.yaml does it",
        ),
        ({"report_to": ["wandb"], "max_steps": 5}, "trackers are keys of utils, such as tensorboard_dir"),
        ({"seed": -1, "max_steps": 5}, "init.seed: expected a number of at least 0, found -1"),
        ({"warmup_ratio": 0.1}, "a share of an unknown number of steps; set optim.warmup_steps"),
        ({"not_a_key_of_anything": 3, "max_steps": 5}, "there is no key of this meaning"),
    ],
)
def test_what_is_not_taken_is_listed_with_the_reason(migrated, values, reason):
    made = migrated(values)
    assert made.left_out == [(next(iter(values)), next(iter(values.values())), reason)]
    assert f"#   {next(iter(values))}: " in made.text()
    assert reason in made.text()


def test_what_says_nothing_is_not_listed(migrated):
    made = migrated(
        {"max_steps": 5, "run_name": None, "fsdp": "", "label_names": [], "tf32": False, "local_rank": 0, "hub_strategy": "every_save"}
    )
    assert made.left_out == []


def test_the_whole_of_the_other_tools_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    args = transformers.TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=100, eval_strategy="steps", use_cpu=True)
    (tmp_path / "training_args.json").write_text(args.to_json_string())
    made = migrate.migrate(tmp_path / "training_args.json")
    assert [key for key, _, _ in made.left_out if key not in ("use_cpu", "accelerator_config", "logging_dir", "run_name")] == []
    assert made.groups["operation"]["train_steps"] == 100


def test_a_switch_off_is_taken(migrated):
    groups = migrated({"max_steps": 5, "save_strategy": "no", "eval_strategy": "no", "fp16": True}).groups
    assert groups["operation"]["no_save"] is True
    assert groups["trainer"]["do_eval"] is False
    assert groups["model"]["precision"] == "float16"


def test_older_forms_of_our_own(migrated, write):
    old = """\
model: {tokenizer_type: byte}
data:
  train:
    - stories.txt: [column: story, split: train]
  eval_datasets:
    - {more.txt: {column: text}}
"""
    made = migrated(old, "old.yaml")
    assert made.groups["data"] == {
        "train_datasets": [{"dataset_path": "stories.txt", "text_column": "story", "split": "train"}],
        "eval_datasets": [{"dataset_path": "more.txt", "text_column": "text"}],
    }
    assert config.check(config.load(write(made.text(), "new.yaml"))) == []
    with pytest.raises(ConfigError, match="older form"):
        config.load(write(old, "old.yaml"))


def test_a_present_configuration_stays_what_it_is(migrated):
    text = "model: gpt2-small\ndata: {train_datasets: [python-docs]}\n"
    made = migrated(text, "new.yaml")
    assert yaml.load(made.text(), source.Loader) == yaml.load(text, source.Loader)
    assert made.notes == []


@pytest.mark.parametrize("text", ["[1, 2]", "{}", "hello: world", "- a"])
def test_other_files_are_refused(migrated, text):
    with pytest.raises(ConfigError, match="in no words that can be migrated"):
        migrated(text, "x.yaml")


def test_every_place_exists():
    for place in (*transformers_words.RENAMED.values(), *transformers_words.INTERVALS.values()):
        group, _, key = place.partition(".")
        assert key in GROUPS[group].__dataclass_fields__, place


def test_comments_stand_above_and_the_rest_is_yaml():
    made = migrate.Migrated({"init": {"seed": 1}}, [("x", "a\nb", "why")], ["note"])
    assert made.text().splitlines() == ["# note", "# Not taken:", "#   x: 'a\\nb': why", "", "init:", "  seed: 1"]
    assert isinstance(Graph(made.groups), Graph)
