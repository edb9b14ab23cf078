"""Grouped configurations: the specification's keys, mistakes with their places, presets, overrides."""

import json
import pathlib
import re

import pytest
import yaml

from ironloom import config
from ironloom.config import tagged
from ironloom.config.graph import is_leaf, walk
from ironloom.config.groups import presets
from ironloom.errors import ConfigError
from ironloom.settings.base import field_names
from ironloom.settings.groups import GROUPS

DATA = "data: {train_datasets: [python-docs]}\n"


def specification():
    """Default of every key in the specification's tables, by group."""
    tables, group = {}, ""
    for line in (pathlib.Path(__file__).parent / "keys_and_defaults.md").read_text().splitlines():
        if line.startswith("### "):
            group = line[4:]
        row = re.fullmatch(r"\| `(\w+)` \| `(.*)` \|", line)
        if row:
            text = {"None": "null"}.get(row[2], row[2])
            tables.setdefault(group, {})[row[1]] = float(text) if re.fullmatch(r"[\d.]+e-\d+", text) else yaml.safe_load(text)
    return tables


def default_of(group, key):
    return getattr(GROUPS[group](), key)


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def kwargs(graph, name):
    return graph.root[name].kwargs


def test_every_key_and_default_of_the_specification_is_there_and_no_other():
    tables = specification()
    assert sum(map(len, tables.values())) == 96
    positions = tables.pop("model.positional_embedding")
    for group, table in tables.items():
        keys = [key for key in field_names(GROUPS[group]) if key != "positional_embedding"]
        assert sorted(keys) == sorted(table)
        for key, default in table.items():
            found = default_of(group, key)
            assert found == default, f"{group}.{key}"
            assert isinstance(found, bool) == isinstance(default, bool)
    assert set(tables) == set(GROUPS)
    assert GROUPS["model"]().positional_embedding.to_dict() == positions


def test_every_key_is_documented():
    import dataclasses

    for schema in GROUPS.values():
        for field in dataclasses.fields(schema):
            assert field.metadata["doc"], field.name


# For every key a valid value that is not its default, and what must be set with it.
PLANNED = {
    "data.task_type": "sft",
    "data.pad_to_max_length": True,
    "data.pad_token_id": 0,
}
WORKS = {
    "trainer.model_name": "other",
    "trainer.model_path": "elsewhere",
    "trainer.micro_batch_size": 4,
    "trainer.train_batch_size": 4,
    "trainer.gradient_accumulation_steps": 3,
    "trainer.tensor_model_parallel_size": 2,
    "trainer.pipeline_model_parallel_size": 2,
    "trainer.save_checkpoint_steps": 7,
    "trainer.log_interval": 7,
    "trainer.grad_norm_log_interval": "log",
    "trainer.param_norm_log_interval": "checkpoint",
    "trainer.use_flash_attn": False,
    "trainer.vocab_padding_unit": 1,
    "trainer.num_workers": 0,
    "trainer.do_eval": True,
    "trainer.eval_batch_size": 5,
    "operation.train_steps": 7,
    "operation.eval_interval": 7,
    "operation.eval_samples": 7,
    "operation.test_samples": 7,
    "operation.activation_recompute": True,
    "operation.save_dist_ckpt": True,
    "operation.no_save": True,
    "operation.exit_interval": 7,
    "model.d_model": 64,
    "model.d_ffn": 64,
    "model.num_layers": 3,
    "model.num_attention_heads": 4,
    "model.num_attention_groups": 2,
    "model.head_dim": 16,
    "model.max_seq_len": 64,
    "model.precision": "float16",
    "model.ln_type": "rmsnorm",
    "model.ln_eps": 1,
    "model.post_ln": True,
    "model.activation_type": "silu",
    "model.dropout_embd": 0,
    "model.dropout_attn": 0,
    "model.dropout_mlp": 0,
    "model.no_bias": True,
    "model.untie_embed": True,
    "model.tokenizer_type": "bbpe",
    "model.vocab_name_or_path": None,
    "model.positional_embedding.type": "none",
    "data.splits": [0.5, 0.5, 0],
    "data.train_datasets": ["python-stdlib"],
    "data.eval_datasets": ["python-docs"],
    "data.test_datasets": [{"dataset_path": "a.txt"}],
    "data.vocab_size": 300,
    "optim.lr_scheduler": "linear",
    "optim.max_lr": 1,
    "optim.min_lr": 1e-5,
    "optim.warmup_steps": 10,
    "optim.annealing_steps": 10,
    "optim.weight_decay": 0,
    "optim.no_decay_on_embedding": False,
    "optim.adam_beta1": 0.8,
    "optim.adam_beta2": 0.8,
    "optim.adam_eps": 1e-6,
    "optim.clip_grad": 0,
    "optim.load_checkpoint_optim_state": False,
    "optim.load_checkpoint_lr_scheduler": False,
    "init.seed": 1,
    "init.init_std": 0.02,
    "init.xavier_init": True,
    "parallel.dist_backend": "gloo",
    "parallel.timeout_minute": 1.0,
    "parallel.use_fsdp": True,
    "utils.log_level": "DEBUG",
    "utils.deterministic": True,
    "utils.report_memory_usage": False,
    "utils.tensorboard_dir": "logs",
    "utils.mlflow_tracking_uri": "http://localhost",
    "utils.mlflow_experiment_name": "x",
    "utils.profile_nsys": True,
    "utils.profile_torch": True,
}
ROTARY = {"model.positional_embedding.base": 5e5, "model.positional_embedding.scaling_factor": 2, "model.positional_embedding.offset": 1}
WINDOW = {"utils.profile_step_start": 1, "utils.profile_step_end": 11, "utils.profile_ranks": [1]}
SHARDED = {
    "parallel.fsdp_offload_params": True,
    "parallel.fsdp_mixed_precision": "bf16",
    "parallel.fsdp_sharding_strategy": "hybrid",
    "parallel.fsdp_state_dict_type": "sharded",
}
RECOMPUTED = {"operation.recompute_strategy": "optimized"}
NEVER = {"init.data_parallel_random_init": True}
# What it names is tested in groups/test_data_files.py.
FILES = {"data.config_path": "data.yaml"}
# Two names of one thing, and numbers that only repeat what the environment says.
SAME = {"optim.optimizer": "adamw"}
FROM_ENVIRONMENT = {"parallel.rank": 1, "parallel.local_rank": 1, "parallel.world_size": 2}


def test_these_lists_cover_every_key():
    positions = {f"model.positional_embedding.{key}" for key in specification()["model.positional_embedding"]}
    keys = {f"{group}.{key}" for group, schema in GROUPS.items() for key in field_names(schema)} - {"model.positional_embedding"}
    assert (
        set(PLANNED)
        | set(SHARDED)
        | set(RECOMPUTED)
        | set(NEVER)
        | set(WORKS)
        | set(ROTARY)
        | set(WINDOW)
        | set(FILES)
        | set(SAME)
        | set(FROM_ENVIRONMENT)
        == keys | positions
    )


def spelled(value):
    return json.dumps(value)


@pytest.mark.parametrize("key", WORKS)
def test_every_working_key_changes_the_graph(write, key):
    path = write(DATA)
    before = tagged.dump(config.load(path))
    assert tagged.dump(config.load(path, [f"{key}={spelled(WORKS[key])}"])) != before


@pytest.mark.parametrize("key", ROTARY)
def test_every_rotary_key_changes_the_graph(write, key):
    path = write(DATA + "model: {positional_embedding: {type: rope}}\n")
    assert tagged.dump(config.load(path, [f"{key}={ROTARY[key]}"])) != tagged.dump(config.load(path))
    assert "has no effect with type 'absolute'" in problems(write(DATA), [f"{key}={ROTARY[key]}"])[0]


@pytest.mark.parametrize("key", WINDOW)
@pytest.mark.parametrize("profile", ["profile_torch", "profile_nsys"])
def test_every_key_of_a_profile_changes_the_graph_or_has_no_effect(write, key, profile):
    path, override = write(DATA + f"utils: {{{profile}: true}}\n"), f"{key}={spelled(WINDOW[key])}"
    assert tagged.dump(config.load(path, [override])) != tagged.dump(config.load(path))
    assert "has no effect without a profile" in problems(write(DATA), [override])[0]


@pytest.mark.parametrize("key", [*SHARDED, *RECOMPUTED])
def test_every_key_of_sharding_and_recomputation_changes_the_graph_or_has_no_effect(write, key):
    switch = "use_fsdp" if key in SHARDED else "activation_recompute"
    path, override = write(DATA + f"{key.partition('.')[0]}: {{{switch}: true}}\n"), f"{key}={spelled((SHARDED | RECOMPUTED)[key])}"
    assert tagged.dump(config.load(path, [override])) != tagged.dump(config.load(path))
    (problem,) = problems(write(DATA), [override])
    assert problem == f"command line: {key}: has no effect without {switch} (set {switch}: true)"


def test_what_is_never_right_says_why(write):
    (problem,) = problems(write(DATA), [f"{key}=true" for key in NEVER])
    assert problem.startswith("command line: init.data_parallel_random_init: replicas start equal")


def test_utils_make_callbacks_that_fit_their_signatures(write):
    path = write(
        DATA
        + "utils: {tensorboard_dir: tb, mlflow_tracking_uri: mlruns, mlflow_experiment_name: e, profile_torch: true, profile_nsys: true}\n"
    )
    graph = config.load(path)
    assert config.check(graph) == []
    callbacks = kwargs(graph, "main")["callbacks"]
    names = ["TBLogger", "MLflowLogger", "ProfileCallback", "NsightCallback"]
    assert [node.target for node in callbacks] == [f"ironloom.callbacks:{name}" for name in names]
    assert callbacks[1].kwargs == {"tracking_uri": "mlruns", "experiment_name": "e", "run_name": "model"}
    profile, _ = config.build(callbacks[2:])
    assert (profile.step_start, profile.step_end, profile.ranks) == (10, 12, (0,))


@pytest.mark.parametrize("key", PLANNED)
def test_every_planned_key_is_refused_by_name(write, key):
    (problem,) = problems(write(DATA), [f"{key}={spelled(PLANNED[key])}"])
    assert problem.startswith(f"command line: {key}: ")
    assert "not available yet" in problem


def test_planned_keys_may_repeat_their_default(write):
    text = ""
    for group in ("operation", "parallel", "data", "init"):
        keys = [key for key in field_names(GROUPS[group]) if f"{group}.{key}" in PLANNED]
        text += f"{group}: {json.dumps({key: default_of(group, key) for key in keys})}\n"
    assert '"pad_token_id": -1' in text
    config.load(write(text.replace("data: {", 'data: {"train_datasets": ["python-docs"], ')))


@pytest.mark.parametrize("key", FROM_ENVIRONMENT)
def test_process_numbers_only_repeat_the_environment(write, monkeypatch, key):
    (problem,) = problems(write(DATA), [f"{key}={FROM_ENVIRONMENT[key]}"])
    assert "is not what the environment says" in problem
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    config.load(write(DATA), [f"{key}={FROM_ENVIRONMENT[key]}"])


def test_adam_and_adamw_are_one_optimizer(write):
    path = write(DATA)
    assert tagged.dump(config.load(path, ["optim.optimizer=adamw"])) == tagged.dump(config.load(path))


def test_mistakes_are_reported_together_with_place_and_suggestion(write):
    path = write(
        """\
        trainer:
          micro_batch_sise: 4
          max_lr: 1e-3
        optim:
          warmup_steps: many
          adam_beta1: 1.5
        opration:
          train_steps: 10
        model: {positional_embedding: {type: rope, bse: 1}}
        data:
          train_datasets: [python-docs]
          train_datasets: [python-stdlib]
        """
    )
    assert problems(path, ["utils.log_level=LOUD"]) == [
        f"{path}:2:3: trainer.micro_batch_sise: unknown key (did you mean 'micro_batch_size'?)",
        f"{path}:3:3: trainer.max_lr: max_lr belongs to optim (write it as optim.max_lr)",
        f"{path}:5:17: optim.warmup_steps: expected a whole number, found 'many'",
        f"{path}:6:15: optim.adam_beta1: expected a number less than 1.0, found 1.5",
        f"{path}:7:1: opration: there is no group 'opration' (did you mean 'operation'?)",
        f"{path}:9:44: model.positional_embedding.bse: unknown key (did you mean 'base'?)",
        f"{path}:12:3: data.train_datasets: the key stands here and in line 11 (keep one of them)",
        "command line: utils.log_level: expected one of 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', found 'LOUD'",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_lr: 1\ndata: {}\n", "1:1: max_lr: max_lr belongs to optim (write it as optim.max_lr)"),
        ("trainer: {max_lrr: 1}\n", "1:11: trainer.max_lrr: unknown key (did you mean 'max_lr' of optim?)"),
        ("trainer: [1]\n", "1:10: trainer: expected a mapping of keys or the name of a preset, found [1]"),
        ("trainer: {num_workers: true}\n", "1:24: trainer.num_workers: expected a whole number, found True"),
        ("trainer: {do_eval: yes}\n", "1:20: trainer.do_eval: expected true or false, found 'yes'"),
        ("optim: {max_lr: .inf}\n", "1:17: optim.max_lr: expected a finite number, found inf"),
        ("optim: {max_lr: 1e-4, min_lr: 1e-3}\n", "1:31: optim.min_lr: 0.001 is more than max_lr 0.0001"),
        ("optim: {optimizer: adamm}\n", "1:20: optim.optimizer: expected one of 'adam' or 'adamw', found 'adamm'"),
        ("data: {splits: [0.5, 0.6, 0]}\n", "expected three shares whose sum is 1, found [0.5, 0.6, 0.0]"),
        ("data: {splits: [0.5, 0.5]}\n", "expected three shares"),
        ("utils: {profile_torch: true, profile_step_end: 9}\n", "1:48: utils.profile_step_end: 9 is before profile_step_start 10"),
        ("utils: {profile_ranks: []}\n", "utils.profile_ranks: expected at least one process"),
        (
            "trainer: {tensor_model_parallel_size: 3}\n",
            "model.num_attention_heads: 8 is not a multiple of trainer.tensor_model_parallel_size",
        ),
        (
            "trainer: {tensor_model_parallel_size: 4}\nmodel: {num_attention_groups: 2}\n",
            "2:31: model.num_attention_groups: 2 is not a multiple of trainer.tensor_model_parallel_size 4",
        ),
        ("data: {vocab_size: 200}\nmodel: {tokenizer_type: bbpe, vocab_name_or_path: null}\n", "1:20: data.vocab_size: a byte-level"),
        ("data: {vocab_size: 200}\nmodel: {tokenizer_type: byte}\n", "1:20: data.vocab_size: the byte tokenizer has 257 tokens"),
        (
            "model: {type: rope}\n",
            "1:9: model.type: type belongs to model.positional_embedding (write it as model.positional_embedding.type)",
        ),
        ("optim: {learning_rate: 1}\n", "1:9: optim.learning_rate: unknown key (here it is called optim.max_lr)"),
        ("logging_steps: 1\ndata: {}\n", "1:1: logging_steps: there is no group 'logging_steps' (here it is called trainer.log_interval)"),
        ("data: {text_column: a}\n", "text_column belongs to an entry of data.train_datasets"),
        ("max_lrr: 1\ndata: {}\n", "1:1: max_lrr: there is no group 'max_lrr' (did you mean optim.max_lr?)"),
        ("data: {train_datasets: [{path: a}]}\n", "data.train_datasets.0.path: unknown key"),
        ("data: {train_datasets: [{source: a, dataset_path: a}]}\n", "not both"),
        ("data: {train_datasets: [{source: a, messages_column: m}]}\n", "data.train_datasets.0.messages_column: 'm' is not available yet"),
        ("data: {train_datasets: [5]}\n", "1:24: data.train_datasets"),
        ("data: {}\n", "1:7: data.train_datasets: nothing to train on (for example: train_datasets: [python-docs])"),
        ("model: {num_attention_groups: 3}\n", "1:31: model.num_attention_groups: 3 groups do not divide 8 heads"),
        ("operation: {train_steps: 5}\noptim: {warmup_steps: 6}\n", "2:23: optim.warmup_steps: the warm-up of 6 steps is longer"),
        ("model: {tokenizer_type: llama, vocab_name_or_path: null}\n", "a llama tokenizer is loaded, not trained"),
        ("data: {train_datasets: [a], splits: [1, 0, 0]}\ntrainer: {do_eval: true}\n", "nothing to evaluate on"),
    ],
)
def test_mistakes(write, text, expected):
    path = write(text)
    assert any(expected in problem.removeprefix(f"{path}:") for problem in problems(path))


def test_whole_numbers_fit_where_numbers_are_expected(write):
    graph = config.load(write(DATA), ["optim.weight_decay=0", "optim.max_lr=1"])
    assert type(kwargs(graph, "optimizer")["weight_decay"]) is float


def test_empty_groups_are_defaults(write):
    names = [group for group in GROUPS if group != "data"]
    text = DATA + "".join(f"{group}:\n" for group in names)
    assert tagged.dump(config.load(write(text))) == tagged.dump(config.load(write(DATA)))


# Overrides.


@pytest.mark.parametrize(
    ("override", "target", "key", "value"),
    [
        ("optim.max_lr=1e-3", "optimizer", "lr", 0.001),
        ("trainer.eval_batch_size=3", "trainer_args", "per_device_eval_batch_size", 3),
        ("operation.exit_interval=null", "trainer_args", "exit_steps", None),
        ("data.splits=[0.8, 0.1, 0.1]", "data", "splits", [0.8, 0.1, 0.1]),
        ("utils.deterministic=true", "trainer_args", "deterministic", True),
        ("trainer.model_path=my runs/a=b", "trainer_args", "output_dir", "my runs/a=b"),
        ("trainer.model_name='1'", "trainer_args", "output_dir", "output/1"),
        ("data.train_datasets.0=python-stdlib", "data", "train_datasets", ["python-stdlib"]),
        ("data.train_datasets=[{source: a.txt, max_samples: 5}]", "data", "train_datasets", [{"source": "a.txt", "max_samples": 5}]),
        ("operation={train_steps: 5}", "trainer_args", "max_steps", 5),
    ],
)
def test_overrides_of_every_kind(write, override, target, key, value):
    graph = config.load(write(DATA + "operation: {train_steps: 7}\n"), [override])
    assert kwargs(graph, target)[key] == value
    place = (target, key, 0) if isinstance(value, list) else (target, key)
    assert graph.origin(place).source == "command line"
    assert graph.origin(place).route == ("derived" if value == "output/1" else "override")


def test_overrides_reach_into_nested_keys(write):
    graph = config.load(write(DATA), ["model.positional_embedding.type=rope", "model.positional_embedding.base=5e5"])
    positions = kwargs(graph, "model")["config"].kwargs["positional_embedding"]
    assert positions == {"type": "rope", "base": 500000.0, "scaling_factor": 1.0, "offset": 0}
    assert graph.origins["model", "config", "positional_embedding", "base"].route == "override"
    assert graph.origins["model", "config", "positional_embedding", "offset"].route == "default"


def test_the_last_override_wins(write):
    graph = config.load(write(DATA), ["init.seed=1", "init.seed=2"])
    assert kwargs(graph, "trainer_args")["seed"] == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("max_lr=1", "command line: max_lr: max_lr belongs to optim (write it as optim.max_lr)"),
        ("optm.max_lr=1", "command line: optm.max_lr: there is no group 'optm' (did you mean 'optim'?)"),
        ("optim.max_lrr=1", "command line: optim.max_lrr: unknown key (did you mean 'max_lr'?)"),
        ("optim.max_lr=[1", "command line: optim.max_lr: is not valid YAML"),
        ("optim.max_lr=!x 1", "has no meaning here"),
        ("optim.max_lr", "expected key=value, found 'optim.max_lr'"),
        ("optim.max_lr.x=1", "cannot be set: optim.max_lr is 0.1, not a mapping"),
        ("data.train_datasets.3=a", "cannot be set: data.train_datasets is a list of 1"),
        ("model=gpt2-smal", "did you mean 'gpt2-small'"),
    ],
)
def test_wrong_overrides(write, override, expected):
    write("d_model: 8\n", "model/gpt2-small.yaml")
    found = problems(write(DATA + "optim: {max_lr: 0.1}\n"), [override])
    assert any(expected in problem for problem in found)


def test_wrong_overrides_and_wrong_keys_are_reported_together(write):
    assert len(problems(write("trainer: {x: 1}\n"), ["a", "optim.max_lr=x"])) == 4


# Presets.


@pytest.mark.parametrize("folder", ["model", "configs/model"])
def test_a_name_is_a_file_beside_or_in_configs(write, folder):
    preset = write("d_model: 64\nnum_layers: 3\n", f"{folder}/tiny.yaml")
    path = write(DATA + "model: tiny\n")
    shape = kwargs(config.load(path, ["model.num_layers=5"]), "model")["config"].kwargs
    assert (shape["d_model"], shape["num_layers"], shape["d_ffn"]) == (64, 5, 2048)
    origin = config.load(path).origins["model", "config", "d_model"]
    assert (str(origin), origin.route) == (f"{preset}:1:10", "preset")


def test_every_group_may_be_a_name_and_the_package_has_presets_too(write, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "LIBRARY", tmp_path / "library")
    write("max_lr: 3e-4\n", "library/optim/careful.yaml")
    graph = config.load(write(DATA + "optim: careful\n"))
    assert kwargs(graph, "optimizer")["lr"] == 3e-4
    write("max_lr: 1e-4\n", "optim/careful.yaml")
    assert kwargs(config.load(write(DATA + "optim: careful\n")), "optimizer")["lr"] == 1e-4


def test_mistakes_in_a_preset_have_its_place(write):
    preset = write("d_modle: 64\nd_model: 0\n", "model/tiny.yaml")
    assert problems(write(DATA + "model: tiny\n")) == [
        f"{preset}:1:1: model.d_modle: unknown key (did you mean 'd_model'?)",
        f"{preset}:2:10: model.d_model: expected a number of at least 1, found 0",
    ]


def test_the_presets_of_the_package_load(write):
    names = sorted(path.stem for path in (presets.LIBRARY / "model").glob("*.yaml"))
    assert names == ["gpt2-large", "gpt2-medium", "gpt2-small", "gpt2-xl", "gpt3", "llama"]
    for name in names:
        graph = config.load(write(DATA + f"model: {name}\n"))
        assert config.check(graph) == []
        assert graph.origins["model", "config", "num_layers"].route == "preset"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tinny", "(did you mean 'tiny'?)"), ("../tiny", "is not the name of a preset"), ("zzz", "presets: gpt2-large, ")],
)
def test_a_name_that_leads_nowhere(write, name, expected):
    write("d_model: 64\n", "model/tiny.yaml")
    path = write(DATA + f"model: {name}\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:2:8: model: ")
    assert expected in problem


@pytest.mark.parametrize(("text", "expected"), [("- 1\n", "expected a mapping of keys"), ("a: [\n", "is not valid YAML"), ("", "is empty")])
def test_a_preset_that_is_none(write, text, expected):
    preset = write(text, "model/odd.yaml")
    (problem,) = problems(write(DATA + "model: odd\n"))
    assert problem.startswith(preset)
    assert expected in problem


# The graph.


def test_every_leaf_has_an_origin(write):
    path = write(DATA + "trainer: {train_batch_size: 8}\n")
    graph = config.load(path)
    leaves = [place for place, value in walk(graph.root) if is_leaf(value)]
    assert len(leaves) > 60
    assert [place for place in leaves if graph.origin(place) is None] == []
    assert str(graph.origins["trainer_args", "gradient_accumulation_steps"]) == f"{path}:2:29"
    assert graph.origin(("data", "train_datasets", 0)).line == 1
    assert graph.origins["trainer_args", "max_steps"].route == "default"


def test_the_graph_shares_its_data_and_tokenizer(write):
    main = kwargs(config.load(write(DATA + "trainer: {do_eval: true}\n")), "main")
    assert main["train_dataset"].args[0] is main["eval_dataset"].args[0] is main["processing_class"].args[0]
    assert main["model_init"].kwargs["vocab_size"].args[0] is main["processing_class"]


def test_the_graph_survives_its_text(write):
    text = tagged.dump(config.load(write(DATA + "model: {positional_embedding: {type: rope}}\n")))
    again = config.load(write(text, "out/run.yaml"))
    assert tagged.dump(again) == text


# Batch arithmetic.


def sizes(write, monkeypatch, trainer, ranks=1):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    args = kwargs(config.load(write(DATA + f"trainer: {trainer}\n")), "trainer_args")
    return args["per_device_train_batch_size"], args["gradient_accumulation_steps"]


@pytest.mark.parametrize(
    ("trainer", "ranks", "expected"),
    [
        ("{}", 1, (2, 1)),
        ("{train_batch_size: 8}", 1, (2, 4)),
        ("{train_batch_size: 8}", 2, (2, 2)),
        ("{gradient_accumulation_steps: 3}", 4, (2, 3)),
        ("{train_batch_size: 24, gradient_accumulation_steps: 3}", 2, (4, 3)),
        ("{micro_batch_size: null, train_batch_size: 6}", 2, (3, 1)),
        ("{micro_batch_size: 4, train_batch_size: 480, gradient_accumulation_steps: 60}", 2, (4, 60)),
    ],
)
def test_what_is_missing_of_the_batch_is_derived(write, monkeypatch, trainer, ranks, expected):
    assert sizes(write, monkeypatch, trainer, ranks) == expected


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        (
            "{micro_batch_size: 4, train_batch_size: 480, gradient_accumulation_steps: 60}",
            "480 is not micro_batch_size 4 x gradient_accumulation_steps 60 x data-parallel size 1 = 240 (the three agree at "
            "data-parallel size 2; leave out gradient_accumulation_steps to derive it)",
        ),
        ("{micro_batch_size: 4, train_batch_size: 10, gradient_accumulation_steps: 2}", "agree at no data-parallel size"),
        (
            "{micro_batch_size: 4, train_batch_size: 10}",
            "10 is not a multiple of micro_batch_size 4 x data-parallel size 1 (the nearest that are: 8 and 12)",
        ),
        ("{train_batch_size: 1}", "(the least that is: 2)"),
        ("{train_batch_size: 7, gradient_accumulation_steps: 2}", "7 is not a multiple of gradient_accumulation_steps 2"),
    ],
)
def test_batch_sizes_that_disagree_say_how_they_would_agree(write, trainer, expected):
    path = write(DATA + f"trainer: {trainer}\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:2:")
    assert expected in problem


def test_a_nonsensical_environment_is_named(write, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert problems(write(DATA)) == ["environment: WORLD_SIZE: expected a whole number, found 'two'"]
