"""Every key of the groups: the specification's names and defaults, and that each has an effect or is refused."""

import json
import pathlib
import re

import pytest
import yaml

from config.grouped import DATA, kwargs, problems
from ironloom import config
from ironloom.config import tagged
from ironloom.settings.base import field_names
from ironloom.settings.groups import GROUPS
from ironloom.settings.lora import Lora
from ironloom.settings.model import PositionalEmbedding


def specification():
    """Default of every key in the specification's tables, by group."""
    tables, group = {}, ""
    for line in (pathlib.Path(__file__).parents[1] / "keys_and_defaults.md").read_text().splitlines():
        if line.startswith("### "):
            group = line[4:]
        row = re.fullmatch(r"\| `(\w+)` \| `(.*)` \|", line)
        if row:
            text = {"None": "null"}.get(row[2], row[2])
            tables.setdefault(group, {})[row[1]] = float(text) if re.fullmatch(r"[\d.]+e-\d+", text) else yaml.safe_load(text)
    return tables


def default_of(group, key):
    return getattr(GROUPS[group](), key)


#: Keys that the specification does not have: what its optimizers and schedules do not need, and options of fine-tuning.
ADDED = {
    "optim": {"momentum", "lr_power", "decay_type", "cooldown_steps", "constant_lr", "checkpoint_step", "tau"},
    "data": {"chat_template", "chat_template_arguments", "train_on", "too_long", "dpo_loss", "dpo_beta", "dpo_label_smoothing", "packing"},
    "model": {"reset_position_ids", "reset_attention_mask", "eod_mask_loss"},
}


def test_every_key_and_default_of_the_specification_is_there_and_no_other():
    tables = specification()
    assert sum(map(len, tables.values())) == 96
    positions = tables.pop("model.positional_embedding")
    for group, table in tables.items():
        keys = {key for key in field_names(GROUPS[group]) if key not in NESTED and f"{group}.{key}" not in OF_OTHER_MODELS}
        assert keys - ADDED.get(group, set()) == set(table)
        for key, default in table.items():
            found = default_of(group, key)
            assert found == default, f"{group}.{key}"
            assert isinstance(found, bool) == isinstance(default, bool)
    assert set(tables) == set(GROUPS)
    found = GROUPS["model"]().positional_embedding.to_dict()
    assert {key: value for key, value in found.items() if f"model.positional_embedding.{key}" not in OF_OTHER_MODELS} == positions


def test_every_key_is_documented():
    import dataclasses

    for schema in GROUPS.values():
        for field in dataclasses.fields(schema):
            assert field.metadata["doc"], field.name


# Keys that the specification does not have, for models of other shapes and for models that are loaded; a value that is not the
# default, and what must be set with it.
NESTED = ("positional_embedding", "lora")
ROPE = "model.positional_embedding.type=rope"
LLAMA3 = [ROPE, "model.positional_embedding.scaling=llama3", "model.positional_embedding.scaling_factor=8"]
LOADED = ["model.name_or_path=somebody/model"]
OF_OTHER_MODELS = {
    "model.attention_bias": ("none", []),
    "model.qk_norm": (True, []),
    "model.sliding_window": (9, []),
    "model.sliding_window_layers": ([1], ["model.sliding_window=9"]),
    "model.embedding_scale": (2.0, []),
    "model.positional_embedding.scaling": ("llama3", [ROPE]),
    "model.positional_embedding.low_freq_factor": (2.0, LLAMA3),
    "model.positional_embedding.high_freq_factor": (3.0, LLAMA3),
    "model.positional_embedding.original_max_seq_len": (64, LLAMA3),
    "model.name_or_path": ("somebody/model", []),
    "model.from_scratch": (True, LOADED),
    "model.lora.r": (4, LOADED),
    "model.lora.alpha": (4.0, [*LOADED, "model.lora.r=4"]),
    "model.lora.dropout": (0.1, [*LOADED, "model.lora.r=4"]),
    "model.lora.target_modules": (["o_proj"], [*LOADED, "model.lora.r=4"]),
}
# For every key a valid value that is not its default, and what must be set with it.
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
# With what they have an effect: more in optim/test_groups.py.
CHOSEN = {
    "optim.momentum": 0.5,
    "optim.lr_power": 2,
    "optim.decay_type": "cosine",
    "optim.cooldown_steps": 5,
    "optim.constant_lr": 1e-5,
    "optim.checkpoint_step": 50,
    "optim.tau": 5,
}
CONVERSATIONS = {
    "data.pad_to_max_length": True,
    "data.pad_token_id": 0,
    "data.chat_template": "plain",
    "data.chat_template_arguments": {"enable_thinking": False},
    "data.train_on": "last",
    "data.too_long": "drop",
}
# Values that say something else than the default; their tests are in test_documents.py.
SHARING_ROWS = {"data.packing", "model.reset_position_ids", "model.reset_attention_mask", "model.eod_mask_loss"}
PREFERENCES = {"data.dpo_loss": "ipo", "data.dpo_beta": 0.3, "data.dpo_label_smoothing": 0.1}
TASK = {"data.task_type": "dpo"}
NEVER = {"init.data_parallel_random_init": True}
# What it names is tested in test_data_files.py.
FILES = {"data.config_path": "data.yaml"}
# Two names of one thing, and numbers that only repeat what the environment says.
SAME = {"optim.optimizer": "adamw"}
FROM_ENVIRONMENT = {"parallel.rank": 1, "parallel.local_rank": 1, "parallel.world_size": 2}


def test_these_lists_cover_every_key():
    positions = {f"model.positional_embedding.{key}" for key in specification()["model.positional_embedding"]}
    keys = {f"{group}.{key}" for group, schema in GROUPS.items() for key in field_names(schema) if key not in NESTED}
    further = {key for key in OF_OTHER_MODELS if key.count(".") == 2}
    assert (
        set(OF_OTHER_MODELS)
        | SHARING_ROWS
        | set(SHARDED)
        | set(RECOMPUTED)
        | set(CHOSEN)
        | set(NEVER)
        | set(CONVERSATIONS)
        | set(PREFERENCES)
        | set(TASK)
        | set(WORKS)
        | set(ROTARY)
        | set(WINDOW)
        | set(FILES)
        | set(SAME)
        | set(FROM_ENVIRONMENT)
        == keys | positions | further
    )
    assert len(further) == len(field_names(Lora)) + len(field_names(PositionalEmbedding)) - len(positions)


def spelled(value):
    return json.dumps(value)


@pytest.mark.parametrize("key", WORKS)
def test_every_working_key_changes_the_graph(write, key):
    path = write(DATA)
    before = tagged.dump(config.load(path))
    assert tagged.dump(config.load(path, [f"{key}={spelled(WORKS[key])}"])) != before


def test_flex_is_a_kernel_without_dropout(write):
    path, plain = write(DATA), "model.dropout_attn=0.0"
    for value, kernel in (("true", "auto"), ("false", "math"), ("flex", "flex")):
        assert config.load(path, [f"trainer.use_flash_attn={value}", plain]).root["trainer_args"].kwargs["attention_kernel"] == kernel
    (problem,) = problems(path, ["trainer.use_flash_attn=flex"])
    assert "trainer.use_flash_attn: flex drops no attention weights, but model.dropout_attn is 0.1 (set model.dropout_attn: 0.0" in problem
    assert "expected" in problems(path, ["trainer.use_flash_attn=fast", plain])[0]


@pytest.mark.parametrize("key", OF_OTHER_MODELS)
def test_every_key_of_other_models_changes_the_graph_or_is_refused(write, key):
    """With what it needs it changes the graph, without it is refused by name."""
    path, (value, needs) = write(DATA), OF_OTHER_MODELS[key]
    override = f"{key}={spelled(value)}"
    assert tagged.dump(config.load(path, [*needs, override])) != tagged.dump(config.load(path, needs))
    if needs:
        assert any("without" in text or "has no effect" in text or "need" in text for text in problems(path, [override]))


@pytest.mark.parametrize("key", CONVERSATIONS)
def test_every_key_of_conversations_changes_the_graph_or_has_no_effect(write, key):
    path, override = write(DATA), f"{key}={spelled(CONVERSATIONS[key])}"
    task = "data.task_type=sft"
    assert tagged.dump(config.load(path, [task, override])) != tagged.dump(config.load(path, [task]))
    (problem,) = problems(path, [override])
    owners = "sft" if key == "data.train_on" else "sft or dpo"
    assert problem == f"command line: {key}: has no effect on pretraining (it belongs to data.task_type: {owners})"


@pytest.mark.parametrize("key", PREFERENCES)
def test_every_key_of_preferences_changes_the_graph_or_has_no_effect(write, key):
    path, override = write(DATA), f"{key}={PREFERENCES[key]}"
    assert tagged.dump(config.load(path, ["data.task_type=dpo", override])) != tagged.dump(config.load(path, ["data.task_type=dpo"]))
    for task in ("pretrain", "sft"):
        (problem,) = problems(path, [f"data.task_type={task}", override])
        assert problem.endswith("(it belongs to data.task_type: dpo)")


def test_preferences_have_a_trainer_of_their_own_and_share_pairs_only(write):
    path = write(DATA)
    graph = config.load(path, ["data.task_type=dpo"])
    assert config.check(graph) == []
    assert (graph.root["main"].target, graph.root["data"].target) == ("ironloom.trainer:PreferenceTrainer", "ironloom.data:DPOData")
    assert graph.root["main"].kwargs["test_dataset"] is graph.root["test_dataset"]
    (problem,) = problems(path, ["data.task_type=dpo", "data.train_on=last"])
    assert problem == "command line: data.train_on: has no effect on dpo (it belongs to data.task_type: sft)"
    (problem,) = problems(path, ["data.task_type=dpo", "data.dpo_loss=hinge", "data.dpo_label_smoothing=0.1"])
    assert "data.dpo_label_smoothing: hinge has none" in problem
    found = problems(path, ["data.task_type=dpo", "trainer.tensor_model_parallel_size=2"])
    assert any("trainer.tensor_model_parallel_size: is not available yet for preferences" in problem for problem in found)


def test_the_datasets_may_say_the_task_and_all_say_the_same(write):
    path = write("data: {train_datasets: [{dataset_path: a.jsonl, task_type: sft}, b.jsonl]}\n")
    assert config.load(path).root["data"].target == "ironloom.data:SFTData"
    (problem,) = problems(path, ["data.eval_datasets=[{dataset_path: c.jsonl, task_type: pretrain}]"])
    assert problem == "command line: data.eval_datasets.0.task_type: 'pretrain' in a run that trains 'sft' (one run has one task)"


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
