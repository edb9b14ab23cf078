"""Grouped configurations as graphs: overrides, presets, origins, batch arithmetic."""

import pytest

from config.grouped import DATA, kwargs, problems
from ironloom import config
from ironloom.config import tagged
from ironloom.config.graph import is_leaf, walk
from ironloom.config.groups import presets
from ironloom.settings.groups import GROUPS


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
    assert (positions["type"], positions["base"], positions["scaling_factor"], positions["offset"]) == ("rope", 500000.0, 1.0, 0)
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
    assert names == ["gpt2", "gpt2-large", "gpt2-medium", "gpt2-small", "gpt2-small-fp32", "gpt2-xl", "gpt3", "llama"]
    for name in names:
        graph = config.load(write(DATA + f"model: {name}\n"))
        assert config.check(graph) == []
        assert graph.origins["model", "config", "num_layers"].route == "preset"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tinny", "(did you mean 'tiny'?)"), ("../tiny", "is not the name of a preset"), ("zzz", "presets: gpt2, ")],
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
            "10 is not a multiple of micro_batch_size 4 x data-parallel size 1 (the nearest that are: 8 and 12; or micro_batch_size 2)",
        ),
        ("{train_batch_size: 1}", "(the least that is: 2; or micro_batch_size 1)"),
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
