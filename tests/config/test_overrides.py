"""Overrides on the command line: their grammar, what they set in groups and in graphs, what they refuse."""

import pytest

from ironloom.config import groups, tagged
from ironloom.config.overrides import apply, is_override
from ironloom.errors import ConfigError

GRAPH = "args: &args !call:a:b {x: 1, deep: {y: [1, 2]}, later: !var 'name'}\nmain: !call:c:d {args: *args, other: !call:e:f []}\n"


def graph():
    return tagged.load(GRAPH, "f")


def refused(loaded, *overrides):
    with pytest.raises(ConfigError) as caught:
        apply(loaded, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["a=1", "a.b=", "a.0.b-c=x=y", "+a.b=1", "model=gpt2"])
def test_the_form_of_an_override(text):
    assert is_override(text)


@pytest.mark.parametrize("text", ["a", "run.yaml", "./a=b", "=1", "-a=1", "++a=1", "~a=1", "a b=1"])
def test_what_is_none(text):
    assert not is_override(text)


@pytest.mark.parametrize("path", ["args", "main.args"])
def test_a_shared_node_is_set_by_any_of_its_paths_and_remembers(path):
    loaded = graph()
    apply(loaded, [f"{path}.x=2", f"{path}.x=[3]", f"{path}.later=4"])
    assert loaded.root["main"].kwargs["args"].kwargs == {"x": [3], "deep": {"y": [1, 2]}, "later": 4}
    place = ("args", "x")
    assert [(step.value, str(step.origin)) for step in loaded.earlier[place]] == [(1, "f:1:27"), (2, "command line")]
    assert str(loaded.origins[place]) == "command line"
    assert loaded.origins[*place, 0].route == "override"
    assert loaded.earlier["args", "later"][0].value == "!var name"


def test_plus_adds_what_is_not_there():
    loaded = graph()
    apply(loaded, ["+args.new.key=1", "+args.deep.y.2=3", "+second={a: 1}", "+args.x=5"])
    assert loaded.root["args"].kwargs["new"] == {"key": 1}
    assert loaded.root["args"].kwargs["deep"]["y"] == [1, 2, 3]
    assert (loaded.root["second"], loaded.root["args"].kwargs["x"]) == ({"a": 1}, 5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("args.new.key=1", "args.new: there is nothing of this name to go into"),
        ("args.dep.y=1", "args.dep: there is nothing of this name to go into (did you mean 'deep'?)"),
        ("second=1", "no such target in the configuration (targets: args, main)"),
        ("args.deep.y.2=3", "cannot be set: args.deep.y is a list of 2 (+args.deep.y.2=... adds to it)"),
        ("+args.deep.y.4=3", "args.deep.y is a list of 2"),
        ("args.x.y=1", "cannot be set: args.x is 1, not a mapping"),
        ("args.later.y=1", "cannot be set: args.later is computed when the graph is built"),
    ],
)
def test_what_leads_nowhere(override, expected):
    assert expected in refused(graph(), override)[0]


def test_everything_wrong_is_reported_at_once():
    assert len(refused(graph(), "args.x.y=1", "mian.x=1", "args.x=[", "nothing")) == 4


def test_plus_adds_no_key_to_a_group(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {train_datasets: [a]}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        groups.load(path, ["+optim.amsgrad=true", "+optim.max_lrr=1", "optim.adam_beta=0.9", "+data.train_datasets.3=b", "modle.d_model=1"])
    found = [str(problem) for problem in caught.value.problems]
    assert sorted(problem.partition(" (known")[0] for problem in found) == [
        "command line: data.train_datasets.3: cannot be set: data.train_datasets is a list of 1 (+data.train_datasets.1=... adds to it)",
        "command line: modle.d_model: there is no group 'modle' (did you mean 'model'?)",
        "command line: optim.adam_beta: unknown key (did you mean 'adam_beta1'?)",
        "command line: optim.amsgrad: unknown key; + adds none here, the keys are fixed",
        "command line: optim.max_lrr: unknown key; + adds none here, the keys are fixed (did you mean 'max_lr'?)",
    ]


def test_of_two_near_names_the_one_that_is_not_given(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {train_datasets: [a]}\noptim: {adam_beta1: 0.8, adam_beta: 0.9}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean 'adam_beta2'"):
        groups.load(path)


def test_mistakes_of_the_file_and_of_the_command_line_are_reported_together(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {train_datasets: [a]}\ntrainer: {log_intervall: 5}\noptim: {warmup_steps: 2000}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        groups.load(path, ["optim.max_lr=fast", "init.sed=1"])
    assert [problem.path for problem in caught.value.problems] == [
        "trainer.log_intervall",
        "optim.warmup_steps",
        "init.sed",
        "optim.max_lr",
    ]
