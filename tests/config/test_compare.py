"""Differences between graphs are those of meaning, not of text."""

import pytest

from ironloom import config
from ironloom.config import compare, tagged
from ironloom.config.compare import differences
from ironloom.config.graph import Graph, Node, Var

SMALL = """\
data: {train_datasets: [python-docs]}
model: {tokenizer_type: byte, num_layers: 1}
"""


def graph(text):
    return tagged.load(text, "run.yaml")


def found(left, right, **options):
    return [(each.path, each.left, each.right, each.kind) for each in differences(graph(left), graph(right), **options)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # an explicit default is an absent one
        (
            "main: !call:ironloom.settings:TrainingArguments {max_steps: 3, seed: 42}",
            "main: !call:ironloom.settings:TrainingArguments {max_steps: 3}",
        ),
        ("main: !call:toys:plain {a: 1, b: 2, c: 3}", "main: !call:toys:plain {a: 1, c: 3, d: 4}"),
        ("main: !call:toys:Record {first: 1, second: 2}", "main: !call:toys:Record {first: 1, second: 2}"),
        ("main: !call:toys:Child {own: 1}", "main: !call:toys:Child [1]"),
        # an inherited one, and one that is handed on
        ("main: !call:toys:Heir {width: 1}", "main: !call:toys:Heir {width: 1, depth: 1}"),
        ("main: !call:toys:Child {own: 1, width: 1, depth: 1}", "main: !call:toys:Child {own: 1, width: 1}"),
        # by position or by name
        ("main: !call:toys:plain {args: [1, 2], kwargs: {c: 3}}", "main: !call:toys:plain {b: 2, c: 3, a: 1}"),
        # order and names
        ("main: {a: 1, b: 2}", "main: {b: 2, a: 1}"),
        ("main: !call:toys:Thing@one {x: 1, y: 2}", "main: !call:toys:Thing@two {y: 2, x: 1}"),
        # one class under two names
        ("main: !call:ironloom.settings:TrainingArguments {seed: 1}", "main: !call:ironloom.settings.training:TrainingArguments {seed: 1}"),
        # settings inside settings
        (
            "main: !call:ironloom.settings:ModelConfig {positional_embedding: {type: rope}}",
            "main: !call:ironloom.settings:ModelConfig {positional_embedding: {base: 10000, type: rope, offset: 0}}",
        ),
        # numbers by value
        ("main: [1, 2.0, .nan]", "main: [1.0, 2, .nan]"),
        # the same sharing in another order of targets
        ("a: &a !call:toys:Thing []\nmain: [*a]", "main: [&a !call:toys:Thing []]\na: *a"),
        # a factory is new each time anyway
        ("main: [&a !factory:toys:Thing [], *a]", "main: [!factory:toys:Thing [], !factory:toys:Thing []]"),
    ],
)
def test_equal_in_meaning(toys, left, right):
    assert found(left, right) == []
    assert found(right, left) == []


@pytest.mark.parametrize(
    ("left", "right", "path", "kind"),
    [
        ("main: 1", "main: 2", "main", "value"),
        ("main: 1", "main: true", "main", "value"),
        ("main: '1'", "main: 1", "main", "value"),
        ("main: [1]", "main: {0: 1}", "main", "value"),
        ("main: [1]", "main: [1, 2]", "main.1", "extra"),
        ("main: {a: 1, b: 2}", "main: {a: 1}", "main.b", "missing"),
        ("main: 1\nother: 2", "main: 1", "other", "missing"),
        ("main: !call:toys:Thing {a: 1}", "main: !call:toys:Heir {a: 1}", "main", "target"),
        ("main: !call:toys:Thing {a: 1}", "main: !partial:toys:Thing {a: 1}", "main", "mode"),
        (
            "main: !call:ironloom.settings:TrainingArguments {seed: 43}",
            "main: !call:ironloom.settings:TrainingArguments []",
            "main.seed",
            "value",
        ),
        ("main: !call:toys:plain {a: 1, c: 3, b: 3}", "main: !call:toys:plain [1]", "main.b", "value"),
        ("main: [&a !call:toys:Thing [], *a]", "main: [!call:toys:Thing [], !call:toys:Thing []]", "main.1", "sharing"),
        ("main: [&a [1], *a]", "main: [[1], [1]]", "main.1", "sharing"),
        ("main: !var x", "main: !var y", "main", "value"),
        ("main: !var x", "main: !var {name: x, default: 1}", "main.default", "extra"),
        ("main: !var {name: x, default: 2}", "main: !var {name: x, default: 1}", "main.default", "value"),
        (
            "main: !call:ironloom.settings:ModelConfig {positional_embedding: {type: rope}}",
            "main: !call:ironloom.settings:ModelConfig []",
            "main.positional_embedding.type",
            "value",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_difference(toys, left, right, path, kind):
    forth, back = found(left, right), found(right, left)
    assert (forth[0][0], forth[0][3]) == (path, kind)
    assert (back[0][0], back[0][3]) == (path, {"extra": "missing", "missing": "extra"}.get(kind, kind))


def test_every_difference_is_found_once(toys):
    left = "a: &a !call:toys:Thing {x: 1, y: 2}\nmain: [*a, *a, 5]"
    right = "a: &a !call:toys:Thing {x: 2, y: 3}\nmain: [*a, *a, 6]"
    assert found(left, right) == [("a.x", 1, 2, "value"), ("a.y", 2, 3, "value"), ("main.2", 5, 6, "value")]


def test_a_second_name_for_a_part_is_no_difference(toys):
    assert found("x: &x !call:toys:Thing []\nmain: [*x]", "main: [!call:toys:Thing []]") == []
    assert found("x: !call:toys:Thing []\nmain: [!call:toys:Thing []]", "main: [!call:toys:Thing []]")[0][3] == "missing"


def test_a_default_is_said_to_be_one():
    left = graph("main: !call:ironloom.settings:TrainingArguments {seed: 1}")
    right = graph("main: !call:ironloom.settings:TrainingArguments []")
    assert list(compare.report(differences(left, right))) == ["main.seed: 1 (run.yaml:1:56) -> 42 (default)"]


def test_only_the_chosen_targets(toys):
    assert found("a: 1\nmain: 2", "a: 2\nmain: 2", names=["main"]) == []


def test_the_arguments_of_a_partial_keep_their_positions(toys):
    """Positions of the call follow those of the configuration: a keyword instead means something else."""
    assert found("main: !partial:toys:plain [1]", "main: !partial:toys:plain {a: 1}") != []


def test_a_grouped_file_equals_the_run_that_it_writes(write):
    grouped = config.load(write(SMALL))
    again = tagged.load(tagged.dump(grouped), "run.yaml")
    assert differences(grouped, again) == []


def test_an_override_shows_with_both_places(write):
    path = write(SMALL)
    lines = list(compare.report(differences(config.load(path), config.load(path, ["model.num_layers=3"]))))
    assert lines == [f"model.config.num_layers: 1 ({path}:2:43) -> 3 (command line)"]


def test_a_report_says_which_side_has_it():
    left, right = Graph({"main": [Node("toys:Thing"), Var("x")]}), Graph({"main": []})
    assert list(compare.report(differences(left, right))) == [
        "main.0: call toys:Thing only on the left",
        "main.1: variable x (required) only on the left",
    ]
    assert next(compare.report(differences(right, left))) == "main.0: call toys:Thing only on the right"
