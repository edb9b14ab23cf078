"""From rendered text to a graph: tags, targets, arguments, names, keys given twice, and places."""

import pytest

from ironloom import config
from ironloom.config import tagged, templates
from ironloom.config.graph import Node, Var, is_leaf, walk
from ironloom.errors import ConfigError


def problems(folder, shown, text, **given):
    with pytest.raises(ConfigError) as caught:
        folder.load(text, **given)
    return [shown(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("tag", "mode"),
    [("singleton", "call"), ("call", "call"), ("factory", "factory"), ("partial", "partial"), ("lambda", "partial"), ("meta", "meta")],
)
def test_tags_of_nodes(folder, tag, mode):
    node = folder.main(f"main: !{tag}:shop.stock:Data.make@stock {{a: 1}}")
    assert (node.target, node.mode, node.name, node.args, node.kwargs) == ("shop.stock:Data.make", mode, "stock", (), {"a": 1})


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("torch.optim:AdamW", "torch.optim:AdamW"),
        ("len", "builtins:len"),
        ("str.upper", "builtins:str.upper"),
        ("dict", "builtins:dict"),
        ("items", "ironloom.config.targets:items"),
        ("getitem", "operator:getitem"),
        ("call", "operator:call"),
        ("named_dict", "builtins:dict"),
        ("torch.randn", "torch:randn"),
        ("torch.optim.AdamW", "torch.optim:AdamW"),
        ("collections.abc.Mapping", "collections.abc:Mapping"),
        ("collections.OrderedDict.fromkeys", "collections:OrderedDict.fromkeys"),
        ("forgather.ml.trainer:Trainer", "ironloom.trainer:Trainer"),
        ("forgather.ml.trainer:TrainingArguments", "ironloom.settings:TrainingArguments"),
        ("forgather.ml.trainer.TrainingArguments", "ironloom.settings:TrainingArguments"),
        ("ironloom:Trainer", "ironloom.trainer:Trainer"),
    ],
)
def test_forms_of_targets(folder, written, target):
    assert folder.main(f"main: !partial:{written}").target == target


@pytest.mark.parametrize(("written", "result"), [("items", [("a", 1)]), ("keys", ["a"]), ("values", [1])])
def test_the_extra_functions(folder, written, result):
    assert config.build(folder.load(f"main: !call:{written} [{{a: 1}}]")) == result


def test_the_extra_functions_of_more_arguments(folder):
    text = (
        "main:\n- !call:getitem [[5, 6], 1]\n- !call:named_list [1, 2]\n- !call:named_tuple [1]\n- !call:call\n  - !partial:len\n  - abc\n"
    )
    assert config.build(folder.load(text)) == [6, [1, 2], (1,), 3]


def test_a_python_file_is_looked_up_beside_the_template_then_in_the_search_path(folder):
    folder.write("def make(a): return ('beside', a)\n", "deep/my file.py")
    folder.write("def make(a): return ('search', a)\n", "my file.py")
    folder.write("def only(a): return ('only', a)\n", "only.py")
    folder.write("other: !call:my%20file.py:make [2]\n", "deep/part.yaml")
    graph = folder.load("main:\n  a: !call:my%20file.py:make [1]\n  c: !call:only.py:only [3]\n-- include 'deep/part.yaml'\n")
    assert graph.root["other"].target == f"{folder.path}/deep/my file.py:make"
    assert config.build(graph) == {"a": ("search", 1), "c": ("only", 3)}
    assert config.build(tagged.load(tagged.dump(graph), "run.yaml"), ["main", "other"]) == {
        "main": config.build(graph),
        "other": ("beside", 2),
    }
    assert config.check(graph) == []


def test_mistakes_in_python_files_are_found_without_running_them(folder, shown):
    folder.write("raise SystemError\ndef make(alpha): pass\nclass Thing:\n    def __init__(self, size): pass\n", "code.py")
    graph = folder.load("main: !call:code.py:make {alpa: 1, alpha: 2}\nb: !call:code.py:mke\nc: !call:code.py:Thing {size: 1, depth: 2}\n")
    found = [shown(problem) for problem in config.check(graph)]
    assert len(found) == 3
    assert found[0].startswith("main.yaml:1:37: main.alpa: unknown key of") or "main.alpa: unknown key" in found[0]
    assert "did you mean 'alpha'?" in found[0]
    assert "main.yaml:2:4: b: " in found[1] and "has no 'mke'" in found[1] and "did you mean 'make'?" in found[1]
    assert "c.depth: unknown key" in found[2]


ARGUMENTS = [
    ("", (), {}),
    (" []", (), {}),
    (" {}", (), {}),
    (" abc", ("abc",), {}),
    (" 'abc'", ("abc",), {}),
    (" 3", (3,), {}),
    (" '3'", ("3",), {}),
    (" ~", (None,), {}),
    (" ''", ("",), {}),
    (" [1, 2]", (1, 2), {}),
    (" {a: 1}", (), {"a": 1}),
    (" {args: [1], kwargs: {a: 2}}", (1,), {"a": 2}),
    (" {args: [1]}", (1,), {}),
    (" {kwargs: {a: 2}}", (), {"a": 2}),
    (" {args: !list:@x [1], kwargs: !dict:@y {a: 2}}", (1,), {"a": 2}),
    (" {args: [1], kwargs: {}}", (1,), {}),
    (" {args: [1], a: 2}", (), {"args": [1], "a": 2}),
    (" {args: 1}", (), {"args": 1}),
    (" {arg1: b, arg0: a, x: 1}", ("a", "b"), {"x": 1}),
    (" {arg10: b, arg9: a}", ("a", "b"), {}),
    (" {argument: 1, arg: 2}", (), {"argument": 1, "arg": 2}),
    (" {constructor: 1, _identity: 2}", (), {"constructor": 1, "_identity": 2}),
]


@pytest.mark.parametrize(("text", "args", "kwargs"), ARGUMENTS)
def test_forms_of_arguments(folder, text, args, kwargs):
    graph = folder.load(f"main: !call:shop:make{text}\n")
    node = graph.root["main"]
    assert (node.args, node.kwargs) == (args, kwargs)
    assert [path for path, value in walk(graph.root) if is_leaf(value) and path not in graph.origins] == []


def test_a_child_replaces_one_positional_argument(folder):
    folder.write("main: !call:shop:make\n-- block b\n  arg0: 1\n  arg1: 2\n-- endblock\n", "base.yaml")
    assert folder.main("-- extends 'base.yaml'\n[b]\n  == super()\n  arg1: 9\n").args == (1, 9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!list [1, 2]", [1, 2]),
        ("!list:@a []", []),
        ("!list:@a", []),
        ("!tuple []", ()),
        ("!tuple", ()),
        ("!tuple:@a [1]", (1,)),
        ("!dict {a: 1}", {"a": 1}),
        ("!dict:@a {}", {}),
        ("!dict@a", {}),
        ("!dlist {a: 1, b: ~, c: [2]}", [1, [2]]),
        ("!dlist:@a {~: ~}", []),
        ("!dlist", []),
    ],
)
def test_containers(folder, text, value):
    found = folder.main(f"main: {text}\n")
    assert found == value
    assert type(found) is type(value)
    again = tagged.load(tagged.dump(folder.load(f"main: {text}\n")), "f").root["main"]
    assert again == value and type(again) is type(value)


def test_places_in_a_list_of_named_items_follow_what_is_left(folder, shown):
    graph = folder.load("main: !dlist\n  a: ~\n  b: !call:dict {x: 1}\n  c: 5\n")
    assert shown(graph.origins["main", 0, "x"]) == "main.yaml:3:21"
    assert shown(graph.origins["main", 1]) == "main.yaml:4:6"


def test_variables_have_names_and_any_default(folder):
    root = folder.load("main: [!var a, !var 'b', !var {name: c, default: !call:dict {x: !var d}}]\n").root["main"]
    assert [var.name for var in root] == ["a", "b", "c"]
    assert isinstance(root[2].default, Node) and isinstance(root[2].default.kwargs["x"], Var)


def test_what_is_shared_in_the_text_is_one_object(folder):
    text = "a: &a !call:dict {}\nb: &b [1]\nc: &c {x: 1}\nmain: [*a, *a, *b, *b, *c, *c, !call:dict {<<: *c, y: 2}]\n"
    built = config.build(folder.load(text))
    assert built[0] is built[1] and built[2] is built[3] and built[4] is built[5]
    assert built[6] == {"x": 1, "y": 2}


def test_the_merge_key_takes_tagged_mappings(folder):
    assert folder.main("a: &a !dict:@a {x: 1}\nb: &b !call:dict {y: 2}\nmain: {<<: [*a, *b], z: 3}\n") == {"x": 1, "y": 2, "z": 3}


def test_definitions_are_no_targets(folder, shown):
    graph = folder.load(".define: &a !call:dict {x: 1}\n.define: &b [2]\n.unused: !call:dict\nmain: [*a, *b]\n")
    assert list(graph.root) == ["main"]
    assert shown(graph.origins["main", 0, "x"]) == "main.yaml:1:28"
    assert all(path[0] == "main" for path in graph.origins)
    assert problems(folder, shown, ".define: !cal:dict\nmain: 1\n") == [
        "main.yaml:1:10: .define: the tag '!cal:dict' has no meaning here (did you mean '!call'?)"
    ]


def test_a_key_given_twice_takes_the_last_value_and_remembers_the_first(folder, shown):
    folder.write("main: !call:dict\n-- block b\n  a: 1\n  b: &b [1]\n  c: !call:dict {}\n-- endblock\n", "base.yaml")
    graph = folder.load("-- extends 'base.yaml'\n[b]\n  == super()\n  a: 2\n  b: &b [2]\n  c: !var x\n  a: 3\n  d: *b\n")
    assert list(graph.root["main"].kwargs) == ["a", "b", "c", "d"]
    assert graph.root["main"].kwargs["a"] == 3
    assert graph.root["main"].kwargs["d"] == [2]
    steps = [(step.value, shown(step.origin), step.origin.route) for step in graph.earlier["main", "a"]]
    assert steps == [(1, "base.yaml:3:6", "template"), (2, "main.yaml:4:6", "file")]
    assert [step.value for step in graph.earlier["main", "c"]] == ["!call:dict"]
    assert graph.warnings == []


def test_a_value_that_the_base_sets_again_is_warned_about(folder, shown):
    folder.write("main: !call:dict\n-- block b\n  a: 1\n-- endblock\n", "base.yaml")
    graph = folder.load("-- extends 'base.yaml'\n-- block b\n  a: 2\n  == super()\n-- endblock\n")
    assert graph.root["main"].kwargs["a"] == 1
    assert [shown(problem).partition(": has no effect")[0] for problem in graph.warnings] == ["main.yaml:3:6: main.a"]


def test_what_stands_in_front_of_the_base_counts_instead_of_its_own(folder, shown):
    folder.write("x: &x [1]\n.y: &y [2]\nmain: !call:dict\n-- block b\n-- endblock\nrest: [*x, *y, *z]\n", "base.yaml")
    folder.write("-- extends 'base.yaml'\nz: &z [3]\n", "middle.yaml")
    graph = folder.load("-- extends 'middle.yaml'\nx: &x [4]\nmine: &y [5]\n[b]\n  a: *x\n")
    assert graph.root["rest"] == [[4], [5], [3]]
    assert graph.root["x"] is graph.root["rest"][0] is graph.root["main"].kwargs["a"]
    assert graph.warnings == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main: [1\nb: {{ 3 }}\n", ["main.yaml:2:2: is not valid YAML: expected ',' or ']', but got"]),
        ("main: 1\n-- if true\nb: 1\n c: 2\n-- endif\n", ["main.yaml:4:3: is not valid YAML: mapping values are not allowed here"]),
        (
            "tok: &tokenizer 1\nmain: *tokeniser\n",
            ["main.yaml:2:7: is not valid YAML: found undefined alias 'tokeniser' (did you mean '*tokenizer'?)"],
        ),
        (
            "a: !cal:dict\n\n-- set x = 1\nmain: {{ 1 }} \nb: !call:lenn\n",
            [
                "main.yaml:1:4: a: the tag '!cal:dict' has no meaning here (did you mean '!call'?)",
                "main.yaml:5:4: b: there is no builtin 'lenn' (did you mean 'len'?)",
            ],
        ),
        ("main: [!call:len, 1]\nb: [!call:x:y]\n", ["main.yaml:2:1: is not valid YAML"]),
        ("main: [!call:len, 1]\n", ["main.yaml:1:8: main.0: a target has the form"]),
        ("main: !call:nofile.py:x\n", ["main.yaml:1:7: main: there is no file 'nofile.py' (it is looked up beside"]),
        ("main: !call:.near:x\n", ["main.yaml:1:7: main: '.near:x' is relative to a package"]),
        ("main: !call:a-b:x\n", ["main.yaml:1:7: main: a target has the form"]),
        ("a: !call:x:y@n\nmain: !call:x:z@n\n", ["main.yaml:2:7: main: the name 'n' is taken by main.yaml:1:4"]),
        ("a: !list:@n []\nmain: !dict:@n {}\n", ["main.yaml:2:7: main: the name 'n' is taken by main.yaml:1:4"]),
        ("main: !call:x:y@a+b\n", ["main.yaml:1:7: main: 'a+b' is no name"]),
        ("main: !list:x []\n", ["main.yaml:1:7: main: expected !list or !list:@name"]),
        ("main: !list {a: 1}\n", ["main.yaml:1:7: main: !list takes a list"]),
        ("main: !dict [1]\n", ["main.yaml:1:7: main: !dict takes a mapping"]),
        ("main: !dlist [1]\n", ["main.yaml:1:7: main: !dlist takes a mapping"]),
        ("main: !dict text\n", ["main.yaml:1:7: main: !dict takes a mapping"]),
        ("main: !var\n", ["main.yaml:1:7: main: expected !var name"]),
        ("main: !!set {a}\n", ["main.yaml:1:7: main: the tag"]),
        ("- 1\n- 2\n", ["main.yaml:1:1: expected a mapping of targets"]),
        ("## nothing\n", ["main.yaml:1:1: the template gives an empty text"]),
        ("a: '\x07'\nmain: 1\n", ["main.yaml:1:5: is not valid YAML: the character U+0007"]),
    ],
)
def test_wrong_text_is_refused_with_its_place(folder, shown, text, expected):
    found = problems(folder, shown, text)
    assert len(found) == len(expected)
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)


def test_a_problem_in_a_base_names_the_base(folder, shown):
    folder.write("## one\nmain: !call:dict\n-- block b\n  a: 1\n-- endblock\n\n\nx: !nope\n", "base.yaml")
    assert problems(folder, shown, "-- extends 'base.yaml'\n[b]\n  == super()\n  q: !nope\n  r: 1\n  s: 2\n") == [
        "base.yaml:8:4: x: the tag '!nope' has no meaning here",
        "main.yaml:4:6: main.q: the tag '!nope' has no meaning here",
    ]


def test_a_place_behind_an_expression_has_no_column(folder, shown):
    graph = folder.load("main: {a: {{ 'long text' }}, b: 1}\n")
    assert shown(graph.origins["main", "a"]) == "main.yaml:1:11"
    assert shown(graph.origins["main", "b"]) == "main.yaml:1"


def test_the_place_of_an_anchored_node_is_the_node(folder, shown):
    folder.write("opt: &opt  # the optimizer\n\n-- block opt\n  !partial:x:y\n-- endblock\nmain: *opt\n", "base.yaml")
    graph = folder.load("-- extends 'base.yaml'\n[opt]\n  !partial:x:z\n    lr: 1e-3\n")
    assert shown(graph.root["opt"].origin) == "main.yaml:3:3"
    assert graph.root["main"] is graph.root["opt"]


def test_the_whole_of_a_graph_has_places_and_survives_writing(folder):
    text = (
        "-- set x = [1, {'a': 2}]\nmain: !call:dict {a: !var x, b: [!tuple [1], {c: 1e-3}], d: !calc '1 + 1'}\nyes: no\nwhen: 2020-01-01\n"
    )
    graph = folder.load(text)
    assert graph.root["when"] == "2020-01-01" and graph.root["yes"] == "no"
    assert [path for path, value in walk(graph.root) if is_leaf(value) and graph.origin(path) is None] == []
    written = tagged.dump(graph)
    assert tagged.dump(tagged.load(written, "run.yaml")) == written
    folder.write(written, "run.yaml")
    assert tagged.dump(templates.load(folder.path / "run.yaml", [])) == written, "what is written is a template too"


def test_a_secret_of_the_environment_stays_a_reference(folder, monkeypatch):
    monkeypatch.setenv("API_KEY", "very secret")
    monkeypatch.setenv("FOLDER", "plain")
    text = "-- set key = os.environ['API_KEY']\n"
    text += "main: [{{ os.environ.API_KEY }}, 'x {{ os.environ.API_KEY }} ${A}', !var key, '{{ os.environ.FOLDER }}']\n"
    graph = folder.load(text)
    written = tagged.dump(graph)
    assert "very secret" not in written and "plain" in written
    for again in (graph, tagged.load(written, "f")):
        assert config.build(again) == ["very secret", "x very secret ${A}", "very secret", "plain"]
