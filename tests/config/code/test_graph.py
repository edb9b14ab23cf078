"""What each setting in code becomes, and that the graph is that of the equal configuration in groups."""

import pathlib
import re

import pytest

from ironloom import config
from ironloom.config import build, check, code, tagged
from ironloom.config.code import quickstart
from ironloom.config.compare import differences
from ironloom.config.graph import Node, is_leaf, walk
from ironloom.errors import Origin

QUICKSTART = pathlib.Path(__file__).parents[3] / "examples" / "quickstart.yaml"

GROUPS = """
model: {num_layers: 1, d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, max_seq_len: 32, precision: float32,
        tokenizer_type: byte, vocab_name_or_path: null, dropout_attn: 0.0}
data: {train_datasets: [text.txt], splits: [0.9, 0.1, 0.0]}
init: {seed: 7, init_std: 0.02}
optim: {max_lr: 1e-3, min_lr: 1e-4, warmup_steps: 3, weight_decay: 0.1, clip_grad: 0.5, lr_scheduler: linear}
trainer: {model_path: runs/p/g/e, micro_batch_size: 4, gradient_accumulation_steps: 2, eval_batch_size: 2, do_eval: true,
          save_checkpoint_steps: 5, log_interval: 2, num_workers: 0}
operation: {train_steps: 10, eval_interval: 5, eval_samples: 8}
utils: {log_level: WARNING}
"""
CODE = """
config = DreamTrainerConfig(
    project="p", group="g", experiment="e", seed=7, log_level="WARNING",
    model=ModelConfig(num_layers=1, d_model=32, d_ffn=64, num_attention_heads=2, head_dim=16, max_seq_len=32, precision="float32",
                      tokenizer_type="byte", vocab_name_or_path=None, dropout_attn=0.0),
    data=DataParameters(train_datasets=["text.txt"], splits=[0.9, 0.1, 0.0]),
    training_parameters=TrainingParameters(
        n_epochs=2, train_steps_per_epoch=5, train_batch_size=4, val_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=0.5,
        val_frequency=1.0, val_steps_per_epoch=4, learning_rate=1e-3, warmup_steps=3, lr_scheduler="linear", log_every_n_steps=2,
    ),
    checkpoint_parameters=CheckpointParameters(root_dir="runs"),
)
"""


def arguments(graph):
    return graph.root["trainer_args"].kwargs


def config_with(**fields):
    """A file with these arguments of the configuration."""
    return f"config = DreamTrainerConfig({', '.join(f'{name}={value}' for name, value in fields.items())})\n"


def training(text):
    return config_with(training_parameters=f"TrainingParameters({text})")


def test_the_same_run_in_groups_has_the_same_graph(write, tmp_path):
    (tmp_path / "run_in_groups.yaml").write_text(GROUPS)
    assert differences(code.load(write(CODE)), config.load(tmp_path / "run_in_groups.yaml")) == []


def test_saying_nothing_is_the_quickstart(write):
    graph = code.load(write("config = DreamTrainerConfig(experiment='quickstart', seed=1337)\n"))
    assert differences(graph, config.load(QUICKSTART)) == []
    assert config.load(QUICKSTART).root["data"].kwargs["train_datasets"] == quickstart.DATA["train_datasets"]


def test_the_graph_prints_and_checks(write):
    graph = code.load(write(CODE))
    assert check(graph) == []
    text = tagged.dump(graph)
    assert tagged.dump(tagged.load(text, "run.yaml")) == text


def test_epochs_over_data_of_unknown_length_are_counted_when_it_is_there(write):
    graph = code.load(write(training("n_epochs=10, val_frequency=0.5, train_batch_size=4, gradient_accumulation_steps=2")))
    assert check(graph) == []
    args = arguments(graph)
    assert (args["max_steps"], args["num_train_epochs"], args["eval_strategy"], args["save_strategy"]) == (-1, 10, "steps", "epoch")
    total = graph.root["lr_scheduler"].kwargs["total_steps"]
    for node, expected in ((args["eval_steps"], 6), (total, 120)):  # 95 samples, 8 a step: 12 steps an epoch
        assert build(Node(node.target, kwargs={**node.kwargs, "dataset": [0] * 95})) == expected
    assert node.kwargs["dataset"] is graph.root["main"].kwargs["train_dataset"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_epochs=3", {"max_steps": -1, "num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch"}),
        ("n_epochs=3, train_steps_per_epoch=7", {"max_steps": 21, "eval_steps": 7, "save_steps": 7, "eval_strategy": "steps"}),
        ("train_steps_per_epoch=40, val_frequency=0.25", {"max_steps": 40, "eval_steps": 10, "save_steps": 40}),
        ("val_every_n_steps=9", {"eval_steps": 9, "max_steps": 400, "eval_strategy": "steps"}),
        ("val_frequency=0", {"eval_strategy": "no", "eval_on_start": False}),
        ("train_batch_size=6, val_batch_size=3", {"per_device_train_batch_size": 6, "per_device_eval_batch_size": 3}),
        ("gradient_accumulation_steps=3", {"gradient_accumulation_steps": 3}),
        ("gradient_clip_val=None", {"max_grad_norm": 0.0}),
        ("max_grad_norm=0.3", {"max_grad_norm": 0.3}),
        ("log_every_n_steps=3, num_workers=2", {"logging_steps": 3, "dataloader_num_workers": 2}),
    ],
)
def test_training_parameters_become_arguments(write, text, expected):
    args = arguments(code.load(write(training(text))))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("checkpoint_every_n_steps=7", {"save_strategy": "steps", "save_steps": 7}),
        ("checkpoint_every_n_val_epochs=2", {"save_steps": 200}),
        ("checkpoint_every_n_epochs=2", {"save_steps": 800}),
        ("enable=False", {"save_strategy": "no"}),
        ("keep_top_k=5", {"save_total_limit": 5}),
        ("keep_top_k=-1", {"save_total_limit": None}),
        ("model_weights_only=True", {"save_optimizer_state": False, "save_scheduler_state": False}),
        ("resume_path='some/where'", {"resume_from_checkpoint": "some/where"}),
        ("root_dir='a/b'", {"output_dir": "a/b/p"}),
    ],
)
def test_checkpoint_parameters_become_arguments(write, text, expected):
    graph = code.load(write(config_with(project="'p'", checkpoint_parameters=f"CheckpointParameters({text})")))
    args = arguments(graph)
    assert {name: args[name] for name in expected} == expected
    assert graph.root["main"].kwargs["callbacks"] == []


@pytest.mark.parametrize("text", ["monitor='val_loss', mode='max', keep_top_k=3", "resume_mode='best'", "resume_mode='max'"])
def test_ranking_checkpoints_is_the_callbacks_work(write, text):
    graph = code.load(write(config_with(checkpoint_parameters=f"CheckpointParameters({text}, checkpoint_every_n_steps=4)")))
    (node,) = graph.root["main"].kwargs["callbacks"]
    assert node.target == "ironloom.callbacks:CheckpointCallback"
    parameters = build(node.kwargs["parameters"])
    assert (parameters.monitor, parameters.mode) == ("val_loss", "max" if "max" in text else "min")
    assert parameters.checkpoint_every_n_steps == arguments(graph)["save_steps"] == 4
    assert parameters.keep_top_k == (3 if "keep" in text else None)


def test_the_parameters_of_a_checkpoint_callback_are_those_of_the_run(write, problems):
    text = "callbacks=[callbacks.CheckpointCallback(CheckpointParameters(root_dir='there', monitor='val_loss', keep_top_k=0))]"
    graph = code.load(write(f"from ironloom import callbacks\nconfig = DreamTrainerConfig({text})\n"))
    assert arguments(graph)["output_dir"] == "there"
    assert arguments(graph)["save_total_limit"] is None
    (node,) = graph.root["main"].kwargs["callbacks"]
    assert "keep_top_k" not in node.args[0].kwargs
    path = write(f"from ironloom import callbacks\nconfig = DreamTrainerConfig({text}, checkpoint_parameters=CheckpointParameters())\n")
    assert "contradicts the CheckpointParameters of the callback" in problems(path)[0]


def test_device_parameters_become_arguments(write):
    graph = code.load(
        write(config_with(device_parameters="DeviceParameters(compile_model=True, param_dtype='float32', error_if_nonfinite=False)"))
    )
    args = arguments(graph)
    assert (args["bf16"], args["nonfinite_policy"]) == (False, "skip")
    assert graph.root["device_parameters"].kwargs == {"compile_model": True, "param_dtype": "float32"}
    assert graph.root["main"].kwargs["device_parameters"] is graph.root["device_parameters"]
    assert graph.root["model"].kwargs["config"].kwargs["precision"] == "float32"


def test_batches_are_shared_among_processes(write, monkeypatch, problems):
    monkeypatch.setenv("WORLD_SIZE", "4")
    args = arguments(code.load(write(training("train_batch_size=8, val_batch_size=16"))))
    assert (args["per_device_train_batch_size"], args["per_device_eval_batch_size"]) == (2, 4)
    (problem,) = problems(write(training("train_batch_size=7")))
    assert "batch size 7 must be divisible by the data-parallel size 4 (the nearest that are: 4 and 8)" in problem


FACTORIES = """
import torch
from ironloom.callbacks import TrainerCallback

class Note(TrainerCallback):
    def __init__(self, where=0, also=None):
        self.where = where

class Data:
    def __init__(self, size): self.size = size
    def __len__(self): return self.size
    def __getitem__(self, index): return {}
    @classmethod
    def small(cls): return cls(2)

def net(): return torch.nn.Linear(2, 2)

shared = Note("a", also={"b": [1, (2, 3)]})
config = DreamTrainerConfig(
    model=net,
    optimizer=partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95)),
    scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=3),
    train_dataset=partial(Data, 5),
    eval_dataset=Data.small,
    callbacks=[shared, None, Note, partial(Note, "c"), shared],
)
"""


def test_factories_and_callbacks_become_nodes(write):
    path = write(FACTORIES)
    graph = code.load(path)
    assert check(graph) == []
    main = graph.root["main"].kwargs
    assert (main["model_init"].target, main["model_init"].mode) == (f"{path}:net", "partial")
    optimizer = main["optimizer_factory"]
    assert (optimizer.target, optimizer.mode, optimizer.kwargs) == (
        "torch.optim:AdamW",
        "partial",
        {"lr": 1e-3, "betas": (0.9, 0.95)},
    )
    assert main["lr_scheduler_factory"].target == "torch.optim.lr_scheduler:StepLR"
    first, second, third, fourth = main["callbacks"]
    assert [graph.origins["main", "callbacks", index] for index in range(3)] == [Origin(path, 26, column) for column in (16, 30, 36)]
    assert first is fourth and first.kwargs == {"also": {"b": [1, (2, 3)]}}
    assert [node.mode for node in (first, second, third)] == ["call"] * 3
    assert main["eval_dataset"].target == f"{path}:Data.small"
    assert "data" not in graph.root and "test_dataset" not in graph.root
    assert main["train_dataset"].mode == "call"
    assert len(build(main["train_dataset"])) == 5
    objects = build(main["callbacks"])
    assert objects[0] is objects[3] and objects[2].where == "c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer=lambda named: None", "a lambda, which has no name to be found by"),
        ("optimizer=inner()", "defined inside a function, where it cannot be found again"),
        ("callbacks=[Live()]", "an object of type Live, and a configuration holds no live objects"),
        ("callbacks=[Hidden(object())]", "an object of type object, and a configuration holds no live objects"),
    ],
)
def test_what_cannot_be_written_down_is_refused_with_its_place(write, problems, text, said):
    path = write(f"""
    from ironloom.callbacks import TrainerCallback
    class Live:
        def on_step_end(self, *args, **kwargs): pass
    class Hidden(TrainerCallback):
        def __init__(self, thing): pass
    def inner():
        def factory(named): pass
        return factory
    config = DreamTrainerConfig(
        {text})
    """)
    (problem,) = problems(path)
    assert said in problem
    assert problem.startswith(f"{path}:12:")
    assert "write a class, a function at the top level of a module, or functools.partial of one" in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device_parameters=DeviceParameters(activation_dtype='float16')", "weights in bfloat16 cannot be multiplied in float16"),
        ("checkpoint_parameters=CheckpointParameters(save_last=False)", "checkpoint_parameters.save_last: False is not available yet"),
        ("optimizer=print, training_parameters=TrainingParameters(weight_decay=0.2)", "the configuration has an optimizer of its own"),
        ("scheduler=print, training_parameters=TrainingParameters(warmup_steps=2)", "the configuration has an lr_scheduler of its own"),
        ("model=print, init_std=0.1", "init_std: has no effect"),
        ("training_parameters=TrainingParameters(val_frequency=0, num_sanity_val_steps=2)", "has no effect: val_frequency is 0"),
        ("training_parameters=TrainingParameters(warmup_steps=401)", "the warm-up of 401 steps is longer than the run of 400"),
        ("trainer_args={'lerning_rate': 1.0}", "trainer_args.lerning_rate: unknown key (did you mean 'learning_rate'?)"),
        ("project='../x'", "leaves the folder of all runs"),
        ("train_dataset=print", "the built-in decoder takes its vocabulary from data"),
        ("model=ModelConfig(precision='float32'), device_parameters=DeviceParameters(param_dtype='float16')", "contradicts the model's"),
        ("model=ModelConfig(num_attention_heads=5, num_attention_groups=2)", "2 groups do not divide 5 heads"),
        ("data=DataParameters(train_datasets=[])", "nothing to train on"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(write, problems, text, said):
    found = problems(write(f"config = DreamTrainerConfig(\n{text})\n"))
    assert any(said in problem for problem in found), found
    assert not any(re.search(r"\b(optim|trainer|operation|init|utils)\.", problem) for problem in found)


def test_five_mistakes_are_told_together(write, problems):
    found = problems(
        write("""
        config = DreamTrainerConfig(
            init_std=0.1, xavier_init=True,
            checkpoint_parameters=CheckpointParameters(save_last=False),
            trainer_args={"logging_step": 3},
            optimizer=print, model=print, training_parameters=TrainingParameters(learning_rate=1e-3),
        )
        """)
    )
    assert len(found) == 5
    assert [int(problem.split(":")[1]) for problem in found] == [4, 4, 5, 6, 7]


def test_wandb_is_told_the_names_of_the_run(write, monkeypatch):
    monkeypatch.setattr("ironloom.callbacks.wandb_logger.require", lambda *names: None)
    settings = "logging_parameters=WandBParameters(entity='team', tags=['x']), project='p', experiment='e'"
    text = "from ironloom import callbacks\nconfig = DreamTrainerConfig(%s%s)\n"
    for more in ("", ", callbacks=[callbacks.LoggerCallback(code_dir='.')]"):
        graph = code.load(write(text % (settings, more)))
        (node,) = graph.root["main"].kwargs["callbacks"]
        assert node.target == "ironloom.callbacks:LoggerCallback"
        assert (node.kwargs["project"], node.kwargs["experiment"]) == ("p", "e")
        parameters = build(node.kwargs["parameters"])
        assert (parameters.entity, parameters.tags) == ("team", ["x"])


def test_fields_of_the_users_own_set_the_settings_of_their_name(write, problems, caplog):
    text = """
    from dataclasses import dataclass
    @dataclass
    class Mine(DreamTrainerConfig):
        learning_rate: float = 1e-3
        batch_size: int = 4
        num_layers: int = 3
        compile_model: bool = True
        width: int = 5
        used: int = 6
        def area(self): return self.used
    config = Mine({})
    """
    path = write(text.format(""))
    graph = code.load(path)
    assert graph.root["optimizer"].kwargs["lr"] == 1e-3
    assert arguments(graph)["per_device_train_batch_size"] == 4
    assert graph.root["model"].kwargs["config"].kwargs["num_layers"] == 3
    assert graph.root["device_parameters"].kwargs == {"compile_model": True, "param_dtype": "bfloat16"}
    assert graph.origins["optimizer", "lr"] == Origin(path, 6, 5)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: nothing reads width: use it in a model, an optimizer ..."]
    assert code.load(path, ["learning_rate=0.5"]).root["optimizer"].kwargs["lr"] == 0.5
    assert code.load(path, ["training_parameters.learning_rate=0.5"]).root["optimizer"].kwargs["lr"] == 0.5
    path = write(text.format("training_parameters=TrainingParameters(learning_rate=2e-3)"))
    assert "0.001 contradicts training_parameters.learning_rate 0.002, which is set too" in problems(path)[0]


def test_every_leaf_has_an_origin(write):
    for text in (CODE, FACTORIES, training("n_epochs=2, val_frequency=0.5"), "config = DreamTrainerConfig()\n"):
        graph = code.load(write(text))
        for path, value in walk(graph.root):
            if is_leaf(value):
                assert graph.origin(path) is not None, path


def test_secrets_of_the_environment_are_written_as_references(write, monkeypatch):
    monkeypatch.setenv("TRACKER_TOKEN", "s3cr3t-value")
    monkeypatch.setenv("HOME_PAGE", "not-a-secret-at-all")
    path = write("""
    import os
    from ironloom.callbacks import JsonLogger
    token, page = os.environ["TRACKER_TOKEN"], os.environ["HOME_PAGE"]
    config = DreamTrainerConfig(
        callbacks=[JsonLogger(token=token, url=f"http://{token}@host/${{x}}", page=page)],
        data=DataParameters(train_datasets=[f"s3://{token}/corpus"]),
    )
    """)
    graph = code.load(path)
    text = tagged.dump(graph)
    assert "s3cr3t-value" not in text and "not-a-secret-at-all" in text
    again = tagged.load(text, "run.yaml")
    (node,) = again.root["main"].kwargs["callbacks"]
    assert build(node.kwargs["token"]) == "s3cr3t-value"
    assert build(node.kwargs["url"]) == "http://s3cr3t-value@host/${x}"
    assert build(again.root["data"].kwargs["train_datasets"]) == ["s3://s3cr3t-value/corpus"]
    monkeypatch.setenv("TRACKER_TOKEN", "another-value")
    assert build(node.kwargs["token"]) == "another-value"


def test_a_short_secret_is_hidden_where_it_is_the_whole_text(write, monkeypatch):
    monkeypatch.setenv("TRACKER_TOKEN", "abcd")
    text = config_with(callbacks='[JsonLogger(token=os.environ["TRACKER_TOKEN"], place="abcdef")]')
    shown = tagged.dump(code.load(write(f"import os\nfrom ironloom.callbacks import JsonLogger\n{text}")))
    assert "${TRACKER_TOKEN}" in shown
    assert "token: abcd" not in shown and "place: abcdef" in shown
