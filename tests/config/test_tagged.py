"""Tagged YAML: what it says, where it says it, and that writing and reading are inverse."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.config import tagged
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Var, is_leaf, walk
from ironloom.errors import ConfigError

TEXT = """\
data: &data !call:shop.stock:Data@data
  files: [a, b]
  size: 1e3
main: !factory:shop:Trainer.make
  args:
    - *data
    - !tuple [1, 2]
  kwargs:
    step: !partial:shop:step [0.5]
    bare: !partial:shop:collate
    lr: !var 'rate'
    seed: !var {name: seed, default: 7}
"""


def test_every_form_is_read():
    root = tagged.load(TEXT, "run.yaml").root
    data, main = root["data"], root["main"]
    assert (data.target, data.mode, data.name) == ("shop.stock:Data", "call", "data")
    assert data.kwargs == {"files": ["a", "b"], "size": 1000.0}
    assert (main.target, main.mode, main.name) == ("shop:Trainer.make", "factory", None)
    assert main.args[0] is data
    assert main.args[1] == (1, 2)
    assert (main.kwargs["step"].mode, main.kwargs["step"].args) == ("partial", (0.5,))
    assert (main.kwargs["bare"].args, main.kwargs["bare"].kwargs) == ((), {})
    assert (main.kwargs["lr"].name, main.kwargs["lr"].default) == ("rate", REQUIRED)
    assert (main.kwargs["seed"].name, main.kwargs["seed"].default) == ("seed", 7)


def test_a_calculation_and_an_unbuilt_node():
    text = "main: !meta:shop:look\n  steps: !calc 'int(max_steps * 0.1)'\n"
    graph = tagged.load(text, "f")
    assert graph.root["main"].mode == "meta"
    assert graph.root["main"].kwargs["steps"].expression == "int(max_steps * 0.1)"
    assert tagged.dump(graph) == f"{tagged.HEADER}\n{text}"


def test_places_are_kept_for_nodes_and_every_leaf():
    graph = tagged.load(TEXT, "run.yaml")
    assert str(graph.root["data"].origin) == "run.yaml:1:7"
    assert str(graph.origins["data", "files", 1]) == "run.yaml:2:14"
    assert str(graph.origins["data", "size"]) == "run.yaml:3:9"
    assert str(graph.origins["main", "step", 0]) == "run.yaml:9:31"
    assert str(graph.root["main"].kwargs["lr"].origin) == "run.yaml:11:9"
    leaves = [path for path, value in walk(graph.root) if is_leaf(value)]
    assert len(leaves) == 7
    assert all(path in graph.origins for path in leaves)


def test_an_aliased_container_is_one_object():
    root = tagged.load("main: {a: &x [1], b: *x, c: [1]}\n", "f").root["main"]
    assert root["a"] is root["b"]
    assert root["a"] is not root["c"]
    text = tagged.dump(Graph({"main": root}))
    assert text.count("&a") == text.count("*a") == 1


def test_arguments_that_are_called_args_stay_keywords():
    for kwargs in ({"args": [1]}, {"kwargs": {"a": 1}}, {"args": [1], "kwargs": {}}, {"args": 1}):
        text = tagged.dump(Graph({"main": Node("a:b", kwargs=kwargs)}))
        again = tagged.load(text, "f").root["main"]
        assert (again.args, again.kwargs) == ((), kwargs)


def test_a_node_called_args_is_a_keyword():
    main = tagged.load("main: !call:a:b\n  args: !call:c:d {x: 1}\n", "f").root["main"]
    assert main.args == ()
    assert main.kwargs["args"].target == "c:d"


def test_the_text_is_readable():
    graph = Graph({"main": Node("a:b", kwargs={"lr": 1e-3, "on": "yes", "none": None, "text": "one\ntwo\n", "empty": [[], {}]})})
    assert tagged.dump(graph) == (
        "# Ironloom: a resolved configuration\n"
        "main: !call:a:b\n  lr: 0.001\n  'on': 'yes'\n  none: null\n  text: |\n    one\n    two\n  empty:\n    - []\n    - {}\n"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("1.0e+2", 100.0),
        ("017", 17),
        ("0x1F", 31),
        ("0o17", 15),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1.2.3", "1.2.3"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("'5'", "5"),
    ],
)
def test_scalars(text, value):
    loaded = tagged.load(f"main: {text}\n", "f").root["main"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("main: [1, 2\n", "f:2:1: is not valid YAML"),
        ("main: 1\nother: 2\nmain: 3\n", "f:3:1: main: the key stands here and in line 1"),
        ("main: !cal:a:b []\n", r"f:1:7: main: the tag '!cal:a:b' has no meaning here \(did you mean '!call'\?\)"),
        ("main: !call:a []\n", "f:1:7: main: expected !call:module:attribute"),
        ("main: !call:a:b text\n", r"f:1:7: main: the arguments of a:b are a list or a mapping \(write \[text\]\)"),
        ("main: !!python/object:os.system {}\n", "no meaning here"),
        ("main: !!set {a, b}\n", "no meaning here"),
        ("main: !!int abc\n", "f:1:7: main: 'abc' is not of type int"),
        ("main: [!call:a:b@x [], !call:c:d@x []]\n", "f:1:24: main.1: the name 'x' is taken by f:1:8"),
        ("main: &a [*a]\n", r"f:1:7: main\.0: contains itself"),
        ("main: !call:a:b {1: 2}\n", "main.1: the name of an argument is a text"),
        ("main: !var {default: 1}\n", "expected !var name"),
        ("[1]\n", "f:1:1: expected a mapping of targets"),
        ("1: 2\n", "f:1:1: 1: the name of a target is a text"),
        ("{[1]: 2}\n", "a key must be a plain text or number"),
        ("a: 1\n--- \nb: 2\n", "is not valid YAML"),
        ("a: '\x07'\n", "f:1:5: is not valid YAML: the character U.0007"),
        ("a: " + "[" * 3000 + "\n", "nested too deeply"),
    ],
)
def test_wrong_text_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError, match=message):
        tagged.load(text, "f")


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        tagged.load("a: !nope x\nb: !!int y\nc: 1\nc: 2\n", "f")
    assert [problem.origin.line for problem in caught.value.problems] == [1, 2, 4]


def test_merge_keys_fill_in_what_is_missing():
    root = tagged.load("base: &base {a: 1, b: 2}\nmain: !call:x:y\n  <<: *base\n  b: 3\n", "f").root
    assert root["main"].kwargs == {"a": 1, "b": 3}
    with pytest.raises(ConfigError, match="f:1:12: main: << takes another mapping"):
        tagged.load("main: {<<: 5}\n", "f")


def test_a_live_object_cannot_be_written():
    with pytest.raises(ConfigError, match=r"main\.x: a configuration holds .* found object"):
        tagged.dump(Graph({"main": Node("a:b", kwargs={"x": object()})}))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)
)
SCALARS |= st.sampled_from(
    [
        "yes",
        "1e-3",
        "0x1",
        "null",
        "<<",
        "=",
        "a: b",
        "- x",
        "# c",
        "a\n b\n",
        " x",
        "x ",
        "\n",
        "a\r\nb",
        "\t",
        "2020-01-01",
        "\x85",
        "a\u2028b",
    ]
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
TARGETS = st.builds("{}.{}:{}".format, NAMES, NAMES, NAMES) | st.builds("/{}/a b {}\u00e9.py:{}".format, NAMES, NAMES, NAMES)


def inner(values):
    keywords = st.dictionaries(NAMES | st.sampled_from(["args", "kwargs", "on", "n"]), values, max_size=3)
    nodes = st.builds(
        Node,
        target=TARGETS,
        mode=st.sampled_from(["call", "factory", "partial", "meta"]),
        args=st.lists(values, max_size=2).map(tuple),
        kwargs=keywords,
    )
    shared = values.map(lambda value: [value, value])
    variables = st.builds(Var, name=NAMES, default=st.just(REQUIRED) | values)
    calculations = st.builds(Calc, expression=st.text("ab1+ ", max_size=5))
    return nodes | shared | variables | calculations | st.lists(values, max_size=3) | st.lists(values, max_size=3).map(tuple) | keywords


def same(one, two):
    """Structural equality of two graph values, nan equal to itself."""
    if isinstance(one, Node) or isinstance(two, Node):
        parts = ("target", "mode", "name", "args", "kwargs")
        return type(one) is type(two) and all(same(getattr(one, part), getattr(two, part)) for part in parts)
    if isinstance(one, Var):
        return isinstance(two, Var) and one.name == two.name and same(one.default, two.default)
    if isinstance(one, Calc):
        return isinstance(two, Calc) and one.expression == two.expression
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two or (isinstance(one, float) and math.isnan(one) and math.isnan(two))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, st.recursive(SCALARS, inner, max_leaves=12), min_size=1, max_size=3))
def test_reading_what_was_written_gives_the_same_graph_and_text(root):
    text = tagged.dump(Graph(root))
    again = tagged.load(text, "f")
    assert same(root, again.root)
    assert tagged.dump(again) == text
    shared = [id(value) for _, value in walk(root) if not is_leaf(value)]
    shared_again = [id(value) for _, value in walk(again.root) if not is_leaf(value)]
    assert len(shared) == len(shared_again), "what is shared stays shared"
