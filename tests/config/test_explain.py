"""Where values came from: step by step, for every leaf, under every name it has."""

import pathlib

import pytest

from ironloom import config
from ironloom.config.explain import Explanation, explain, explain_file, history, table
from ironloom.config.graph import Graph, Node, Step, is_leaf, walk
from ironloom.errors import ConfigError, Origin
from ironloom.settings.groups import GROUPS
from shipped import CONFIGURATIONS, label

PRESET = "{num_layers: 3, d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, max_seq_len: 32, tokenizer_type: byte}\n"
GROUPED = """\
model: {preset: mini, num_layers: 4}
data: {train_datasets: [python-docs]}
trainer: {micro_batch_size: 4, train_batch_size: 8}
"""


@pytest.fixture
def grouped(write):
    write(PRESET, "model/mini.yaml")
    return write(GROUPED)


def told(graph, key):
    """Route and value of every step of one value."""
    (found,) = explain(graph, key)
    return [(step.origin.route, step.value) for step in found.steps]


def test_default_preset_file_and_override_in_order(grouped):
    assert told(config.load(grouped), "model.num_layers") == [("default", 2), ("preset", 3), ("file", 4)]
    overridden = config.load(grouped, ["model.num_layers=5"])
    assert told(overridden, "model.num_layers") == [("default", 2), ("preset", 3), ("file", 4), ("override", 5)]
    (found,) = explain(overridden, "model.num_layers")
    assert [str(step.origin) for step in found.steps] == [
        "default",
        str(pathlib.Path(grouped).parent / "model/mini.yaml") + ":1:14",
        f"{grouped}:1:35",
        "command line",
    ]


def test_a_value_of_the_environment(write, monkeypatch):
    monkeypatch.setenv("STEPS", "77")
    graph = config.load(write(GROUPED.replace("preset: mini", "tokenizer_type: byte") + "operation:\n  train_steps: ${STEPS}\n"))
    assert told(graph, "trainer_args.max_steps") == [("default", 1000), ("environment", 77)]


def test_a_derived_value_names_the_keys_it_follows_from(grouped):
    (found,) = explain(config.load(grouped), "trainer_args.gradient_accumulation_steps")
    assert found.value == 2
    assert {"trainer.micro_batch_size", "trainer.train_batch_size"} <= set(found.keys)
    assert found.steps[-1].origin.route == "derived"


def test_one_value_under_all_its_names(grouped):
    graph = config.load(grouped)
    by_target, by_run, by_key = (explain(graph, key) for key in ("trainer_args.max_steps", "main.args.max_steps", "operation.train_steps"))
    assert by_target == by_run
    assert by_target[0] in by_key
    assert by_target[0].path == "trainer_args.max_steps"
    assert by_target[0].keys == ("operation.train_steps",)


def test_a_node_or_a_group_stands_for_everything_in_it(grouped):
    graph = config.load(grouped)
    paths = {each.path for each in explain(graph, "trainer_args")}
    assert paths == {f"trainer_args.{name}" for name in graph.root["trainer_args"].kwargs}
    assert {name for each in explain(graph, "init") for name in each.keys} >= {"init.seed", "init.init_std"}


def test_every_key_of_the_groups_is_explained_also_without_a_part_in_the_graph(grouped):
    for group, cls in GROUPS.items():
        for name in cls.__dataclass_fields__:
            assert explain_file(grouped, key=f"{group}.{name}"), (group, name)
    (found,) = explain_file(grouped, ["parallel.world_size=1"], key="parallel.world_size")
    assert [(step.origin.route, step.value) for step in found.steps] == [("default", 1), ("override", 1)]
    with pytest.raises(ConfigError, match=r"did you mean 'parallel.world_size'"):
        explain_file(grouped, key="parallel.world_sise")


def test_a_variable_of_a_template_explains_the_values_that_it_gave(write):
    path = write("-- set steps = 7\nmain: !call:toys:Thing\n    x: !var steps\n    y: 3\n", "template.yaml")
    assert [(each.path, each.value) for each in explain_file(path, key="steps")] == [("main.x", 7)]


def test_base_template_include_and_override_in_order(write):
    write("-- block args\nmain: !call:toys:Thing\n    x: 1\n    y: 1\n-- endblock\n", "base.yaml")
    write("# more\n    x: 2\n", "part.yaml")
    path = write("-- extends 'base.yaml'\n-- block args\n    == super()\n    -- include 'part.yaml'\n    x: 3\n-- endblock\n", "child.yaml")
    graph = config.load(path, ["main.x=4"])
    assert told(graph, "main.x") == [("template", 1), ("include", 2), ("file", 3), ("override", 4)]
    assert told(graph, "main.y") == [("template", 1)]


def test_an_argument_that_nobody_set_has_its_default(grouped):
    graph = config.load(grouped)
    assert told(graph, "main.args.learning_rate") == [("default", 5e-5)]
    (found,) = explain(graph, "trainer_args.learning_rate")
    assert found.steps[0].origin.source == "default of ironloom.settings:TrainingArguments"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("model.num_layer", "model.num_layers"),
        ("operation.train_step", "operation.train_steps"),
        ("trainer_args.max_stepz", "trainer_args.max_steps"),
        ("main.arg.max_steps", "main.args.max_steps"),
        ("trainer_argz", "trainer_args"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(grouped, key, near):
    with pytest.raises(ConfigError) as caught:
        explain(config.load(grouped), key)
    assert f"did you mean {near!r}?" in str(caught.value)


def test_a_list_that_was_replaced_explains_its_items():
    file, line = Origin("run.yaml", 1, 2), Origin("command line", route="override")
    graph = Graph({"main": {"x": [1, 2]}}, {("main", "x"): line}, {("main", "x"): [Step([7], file)]})
    assert told(graph, "main.x.0") == [("file", 7), ("override", 1)]
    assert told(graph, "main.x.1") == [("override", 2)]


def test_a_set_argument_begins_with_the_default_of_its_class():
    node = Node("ironloom.settings:TrainingArguments", kwargs={"max_steps": 5})
    graph = Graph({"main": node}, {("main", "max_steps"): Origin("run.yaml", 3, 4)})
    assert told(graph, "main.max_steps") == [("default", -1), ("file", 5)]


def test_lines_for_people():
    steps = (
        Step(2, Origin("default", route="default")),
        Step(40, Origin("a.yaml", 3, 4)),
        Step(None, Origin("command line", route="override")),
    )
    assert history(Explanation("main.x", ("group.y",), steps)) == [
        "main.x = null  (group.y)",
        "  default   2",
        "  file      40    a.yaml:3:4",
        "  override  null  command line",
    ]
    assert table([Explanation("main.x", ("group.y",), steps)]) == ["main.x  null  override  command line  group.y"]


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=label)
def test_every_leaf_of_every_shipped_configuration_is_explained(file):
    graph = config.load(file)
    leaves = [path for path, value in walk(graph.root) if path and is_leaf(value)]
    found = {each.path: each for each in explain(graph)}
    assert len(leaves) > 30
    for path in leaves:
        explanation = found[".".join(map(str, path))]
        assert explanation.steps, path
        assert explanation.steps[-1].origin.source, path
        assert explain(graph, ".".join(map(str, path)))[0].steps == explanation.steps
