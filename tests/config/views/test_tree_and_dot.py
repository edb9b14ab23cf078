"""The tree and the Graphviz text: everything is in them, once, and both are well formed."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.config import tagged
from ironloom.config.graph import Calc, Graph, Node, Var, is_leaf, walk
from ironloom.config.views import dot, tree

TEXT = """\
trainer_args: &args !call:ironloom.settings:TrainingArguments {max_steps: 5, output_dir: out put}
main: !call:ironloom.trainer:Trainer@run
  args: *args
  optimizer: !partial:ironloom.optim:adamw {betas: [0.9, 0.95]}
  odd: ['1', yes, "a\\nb", 'x"y', null, 1e-3]
  more: [!var steps, !var {name: rate, default: {low: 1}}, {}, []]
"""
# The tokens of Graphviz's language that may stand in our texts.
TOKEN = re.compile(r'\s+|(?P<string>"(?:[^"\\]|\\.)*")|(?P<name>[A-Za-z_]\w*)|(?P<number>\d+)|(?P<arrow>->)|(?P<sign>[{}\[\]=,;])')
LABELS = re.compile(r'label="((?:[^"\\]|\\.)*)"')


def parsed(text):
    """Boxes and edges of a digraph; fails where Graphviz would not read it.

    A grammar of its own: digraph ID { ID=ID; node [..]; ID [..]; ID -> ID [..]; }.
    """
    tokens, place = [], 0
    while place < len(text):
        found = TOKEN.match(text, place)
        assert found, f"no token at {text[place : place + 40]!r}"
        place = found.end()
        if found.lastgroup:
            tokens.append(found[found.lastgroup])

    def take(*expected):
        token = tokens.pop(0)
        assert not expected or token in expected, (token, expected)
        return token

    def attributes():
        found = {}
        take("[")
        while True:
            key = take()
            take("=")
            found[key] = take()
            if take(",", "]") == "]":
                return found

    boxes, edges = {}, []
    take("digraph")
    take()
    take("{")
    while tokens[0] != "}":
        name = take()
        if tokens[0] == "=":
            take("=")
            take()
        elif tokens[0] == "->":
            take("->")
            edges.append((name, take(), attributes()))
        else:
            boxes[name] = attributes()
        take(";")
    assert tokens == ["}"]
    return boxes, edges


def graph(text=TEXT):
    return tagged.load(text, "run.yaml")


def test_the_tree():
    lines = tree.dump(graph()).splitlines()
    assert lines == [
        "trainer_args: call ironloom.settings:TrainingArguments",
        "  max_steps: 5",
        "  output_dir: out put",
        "main: call ironloom.trainer:Trainer (run)",
        "  args: same as trainer_args",
        "  optimizer: partial ironloom.optim:adamw",
        "    betas: [0.9, 0.95]",
        "  odd: ['1', 'yes', 'a\\nb', 'x\"y', null, 0.001]",
        "  more: list of 4",
        "    0: variable steps (required)",
        "    1: variable rate",
        "      default: mapping",
        "        low: 1",
        "    2: {}",
        "    3: []",
    ]


def test_the_tree_tells_places():
    lines = tree.dump(graph(), origins=True).splitlines()
    assert re.fullmatch(r"  max_steps: 5 +# run\.yaml:1:75", lines[1])
    assert all(re.search(r"# run\.yaml:\d+:\d+$", line) for line in lines)


def test_every_value_has_its_line():
    parts = [value for path, value in walk(graph().root) if path]
    flat = 2 + 6  # items of lists that stand on one line
    assert len(tree.dump(graph()).splitlines()) == len(parts) - flat + 1, "and the second place of what is shared"


def test_graphviz_boxes_and_edges():
    boxes, edges = parsed(dot.dump(graph()))
    labels = {name: attributes["label"] for name, attributes in boxes.items() if name != "node"}
    run = next(name for name, label in labels.items() if "Trainer (run)" in label)
    args = next(name for name, label in labels.items() if "TrainingArguments" in label)
    assert "max_steps: 5" in labels[args]
    assert [edge for edge in edges if edge[:2] == (run, args)] == [(run, args, {"label": '"args"'})]
    assert sum(target == args for _, target, _ in edges) == 2, "shared: one box, two edges"
    assert len(labels) == 8


def test_a_shared_list_is_a_box():
    boxes, edges = parsed(dot.dump(graph("main: [&a [1, 2], *a, [1, 2]]")))
    assert sum('"[1, 2]' in attributes["label"] for name, attributes in boxes.items() if name != "node") == 1
    assert [attributes["label"] for _, _, attributes in edges] == ['"main"', '"0"', '"1"']


@pytest.mark.parametrize("text", ['"', "\\", 'a"b\\c', "a\nb", "\\l", '\\"', "{}|<>", "\u2028", "\ud800"])
def test_graphviz_labels_are_escaped(text):
    whole = Graph({"main": Node("a:b", kwargs={text or "x": text}, name="n"), text: [Calc(text), Var(text)]})
    boxes, _ = parsed(dot.dump(whole))
    assert len(boxes) == 6


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.text() | st.none() | st.floats() | st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
def test_any_data_gives_well_formed_text(data):
    whole = Graph({"main": {"data": data, "node": Node("a:b", "factory", (data,))}})
    boxes, edges = parsed(dot.dump(whole))
    assert len(boxes) - 1 <= 1 + sum(not is_leaf(value) for _, value in walk(whole.root))
    assert len(edges) >= 2
    assert tree.dump(whole).isprintable() or all(line.isprintable() for line in tree.dump(whole).split("\n"))


def test_an_object_is_named_by_its_class():
    assert tree.dump(Graph({"main": object()})) == "main: object object\n"
