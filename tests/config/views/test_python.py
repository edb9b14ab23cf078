"""The Python view: it compiles, and what it builds is what the graph builds."""

import ast
import builtins
import keyword
import math
import pickle
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironloom import config
from ironloom.config.build import build
from ironloom.config.graph import REQUIRED, Calc, Graph, Node, Var, children, is_leaf
from ironloom.config.views import python
from ironloom.errors import ConfigError
from shipped import CONFIGURATIONS, label

TARGETS = ["viewtoys:Thing", "viewtoys:Thing.make", "viewtoys:sum", "viewtoys:construct", "viewtoys:UNSET"]
NAMES = ["a", "b", "class", "two-words", "list", "args", "kwargs", "partial", "cache", "Thing", "construct", "9", "UNSET", "None"]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=4), st.sampled_from(["'\"\\", "{x}"])
)


GROUPED = """\
data: {train_datasets: [python-docs]}
model: {tokenizer_type: byte, num_layers: 1, d_model: 16, d_ffn: 16, head_dim: 8, num_attention_heads: 2}
"""


def run(text, name="construct"):
    """The function that a program defines."""
    space = {}
    exec(compile(text, "generated.py", "exec", dont_inherit=True), space)
    return space[name]


def shape(value, seen):
    """What can be observed of an object: structure, values, and which parts are the same object."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    if value is None or isinstance(value, (bool, int, float, str)):
        return (type(value).__name__, value)
    if isinstance(value, tuple):  # which tuple it is cannot matter, only what is in it
        return ("tuple", [shape(child, seen) for child in value])
    if id(value) in seen:
        return ("seen", seen[id(value)][0])
    seen[id(value)] = (len(seen), value)
    if isinstance(value, type):
        return value
    if isinstance(value, (Node, Var)):
        parts = [value.target, value.mode, value.args, value.kwargs] if isinstance(value, Node) else [value.name, value.default]
        return (type(value).__name__, [part if part is REQUIRED else shape(part, seen) for part in parts])
    if isinstance(value, dict):
        return ("dict", [(key, shape(child, seen)) for key, child in value.items()])
    if isinstance(value, list):
        return ("list", [shape(child, seen) for child in value])
    if hasattr(value, "kwargs"):
        return (type(value).__name__, shape(list(value.args), seen), shape(value.kwargs, seen))
    assert callable(value)
    return "callable"


def called(value, seen, depth=2):
    """Every partial inside an object, called twice with a position and a keyword; results are looked at likewise."""
    if id(value) in seen or depth < 0:
        return []
    seen[id(value)] = value
    if isinstance(value, (dict, list, tuple)):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        return [result for part in parts for result in called(part, seen, depth)]
    if isinstance(value, type) or value is None or isinstance(value, (bool, int, float, str, Node, Var)):
        return []
    if callable(value):
        results = [value("more", new=1), value()]
        return [*results, *called(results, seen, depth - 1)]
    return called([list(value.args), value.kwargs], seen, depth)


@st.composite
def graphs(draw):
    """Graphs of every kind of node with shared parts."""
    pool = []
    names = iter(draw(st.permutations([None] * 6 + ["named", "Thing", "for", "sum", "construct", "cache", "a-b.c", "config"])))

    def child():
        if pool and draw(st.integers(0, 3)):
            return pool[draw(st.integers(max(0, len(pool) - 6), len(pool) - 1))]
        return draw(LEAVES)

    def keyed():
        return {key: child() for key in draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))}

    def items():
        return [child() for _ in range(draw(st.integers(0, 2)))]

    for _ in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(["call", "call", "factory", "partial", "partial", "meta", "dict", "list", "tuple", "var"]))
        if kind == "dict":
            pool.append(keyed())
        elif kind == "list":
            pool.append(items())
        elif kind == "tuple":
            pool.append(tuple(items()))
        elif kind == "var":
            pool.append(Var(draw(st.sampled_from(["a", "size", "construct", "sum"])), child()))
        else:
            pool.append(Node(draw(st.sampled_from(TARGETS)), kind, tuple(items()), keyed(), next(names, None)))
    keys = draw(st.lists(st.sampled_from(["main", "other", "class", "a b", "sum"]), min_size=1, max_size=3, unique=True))
    return Graph({key: pool[-1 - index] if index < len(pool) else 1 for index, key in enumerate(keys)})


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(graph=graphs(), given_values=st.dictionaries(st.sampled_from(["a", "size"]), LEAVES), single=st.booleans())
def test_a_program_builds_what_the_graph_builds(toys, graph, given_values, single):
    names = next(iter(graph.root)) if single else list(graph.root)
    text = python.dump(graph, names)
    construct = run(text)
    code = construct.__code__
    variables = {name: value for name, value in given_values.items() if name in code.co_varnames[: code.co_kwonlyargcount]}
    toys.LOG.clear()
    built = build(graph, names, variables)
    first = (shape(built, {}), sorted(toys.LOG))
    results = called(built, {})
    first += (shape(results, {}), sorted(toys.LOG))
    toys.LOG.clear()
    made = construct(**variables)
    second = (shape(made, {}), sorted(toys.LOG))
    results = called(made, {})
    second += (shape(results, {}), sorted(toys.LOG))
    assert first == second, text


def made(root, names="main", **variables):
    return run(python.dump(Graph(root), names))(**variables)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("int(steps * 0.1)", 10),
        ("ceil(steps / 3) + floor(2.5)", 36),
        ("max([steps, 5], (1, 2)) if steps > 3 and not 0 else 0", [100, 5]),
        ("2 ** 3 ** 1 - -steps % 7", 8 - -100 % 7),
        ("sqrt(steps) // 3", 3.0),
        ("round(steps * 1.006, 1)", 100.6),
    ],
)
def test_a_calculation_is_the_same_arithmetic(toys, expression, value):
    root = {"main": Node("viewtoys:Thing", args=(Calc(expression),))}
    assert build(Graph(root), variables={"steps": 100}).args == made(root, steps=100).args == (value,)


def test_a_calculation_that_would_not_end_is_refused_when_it_runs():
    root = {"main": Calc("9 ** 9 ** 9")}
    with pytest.raises(ValueError, match="too large"):
        made(root)
    with pytest.raises(ConfigError, match="calls 'open'"):
        python.dump(Graph({"main": Calc("open('x')")}))


def test_variables_are_keywords_with_their_defaults():
    root = {"main": [Var("size", 3), Var("two words", "x"), Var("for"), Var("list", [1]), Var("size", 3)]}
    text = python.dump(Graph(root), "main")
    assert 'def construct(*, size=3, two_words="x", for_2, list_2=UNSET):' in text
    assert run(text)(for_2=0) == [3, "x", 0, [1], 3]
    assert run(text)(for_2=0, list_2=None, size=4) == [4, "x", 0, None, 4]
    with pytest.raises(TypeError, match="for_2"):
        run(text)()


def test_a_default_is_built_only_when_it_is_needed(toys):
    root = {"main": [Var("x", Node("viewtoys:Thing"))]}
    toys.LOG.clear()
    assert made(root, x=1) == [1]
    assert toys.LOG == []
    assert isinstance(made(root)[0], toys.Thing)


def test_deep_nesting_compiles(toys):
    value, factory = 1, 1
    for level in range(150):
        value = [value] if level % 2 else {"a": value}
        factory = Node("viewtoys:Thing", "factory" if level % 3 else "partial", (factory,))
    root = {"main": [value, factory]}
    assert made(root)[0] == build(Graph(root))[0]


def test_targets_in_files_and_under_names_that_python_would_not_import(tmp_path):
    file = tmp_path / "my targets.py"
    file.write_text("def double(x):\n    return 2 * x\n")
    node = Node(f"{file}:double", args=(4,))
    assert made({"main": node}) == build(Graph({"main": node})) == 8
    for target in ("__future__:annotations", "keyword:None", "my-module:x", "a:b.class", "builtins:nothing", "a:__debug__", "a:b:c"):
        compile(python.dump(Graph({"main": Node(target)})), "generated.py", "exec", dont_inherit=True)


def test_modules_of_a_project_are_found(tmp_path, monkeypatch):
    (tmp_path / "projectmodule.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "projectmodule", raising=False)
    root = {"system_path": [str(tmp_path)], "main": Node("projectmodule:double", args=(4,))}
    assert made(root) == 8
    sys.modules.pop("projectmodule", None)


def test_builtins_need_no_import():
    assert python.dump(Graph({"main": Node("builtins:dict.fromkeys", args=([1],))}), "main").count("import") == 0
    assert made({"main": Node("builtins:dict.fromkeys", args=([1],))}) == {1: None}


def test_no_name_hides_another(toys):
    names = ["Thing", "sum", "print", "class", "construct", "partial", "args", "kwargs", "cache", "UNSET", "1st", "a b", "\u00e9"]
    root = {name: Node("viewtoys:Thing", kwargs={"x": [index] * 40}) for index, name in enumerate(names)}
    text = python.dump(Graph(root))
    assert list(run(text)()) == names
    bound = [node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    assert len(bound) == len(set(bound)) == len(names)
    assert not {*bound} & {*dir(builtins), *keyword.kwlist, "Thing"}


def test_leaves_only_make_a_partial_that_can_be_pickled(toys):
    partial = made({"main": Node("viewtoys:Thing", "partial", (1, (2,)), {"a": None})})
    assert pickle.loads(pickle.dumps(partial))().args == (1, (2,))


def test_texts_and_numbers_survive(toys):
    values = ['"', "'", "\\", "a\nb", "\x00", "\ud800", "{x}", "\u2028", 10**30, -0.0, 1e300, float("inf"), -float("inf"), True, None]
    assert repr(made({"main": values})) == repr(values)


def test_what_text_cannot_hold_is_an_error_with_its_path():
    with pytest.raises(ConfigError, match=r"main\.x: a configuration holds"):
        python.dump(Graph({"main": {"x": object()}}))


def test_a_node_that_needs_itself_is_an_error():
    node = Node("viewtoys:Thing")
    node.kwargs["me"] = node
    with pytest.raises(ConfigError, match=r"main\.me: needs itself"):
        python.dump(Graph({"main": node}))


def test_an_unknown_target_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'main'"):
        python.dump(Graph({"main": 1}), "mian")


def test_a_run_from_groups_builds_the_same_trainer(write):
    graph = config.load(write(GROUPED))
    trainer = run(python.dump(graph, "trainer_args"))()
    assert trainer == build(graph, "trainer_args")
    everything = python.dump(graph)
    compile(everything, "generated.py", "exec")
    assert everything.count("PretrainData(") == 1, "what is shared is made once"


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=label)
def test_a_shipped_configuration_builds_the_same_objects(toys, file):
    """With a recorder in place of every target: what is called with what, how often, and what is shared."""
    graph = config.load(file)
    for name in (None, *graph.root):
        compile(python.dump(graph, name), f"{file}:{name}", "exec", dont_inherit=True)
    recorded = Graph(recording(graph.root, {}))
    toys.LOG.clear()
    first = shape(build(recorded, list(recorded.root)), {}), sorted(toys.LOG)
    toys.LOG.clear()
    second = shape(run(python.dump(recorded))(), {}), sorted(toys.LOG)
    assert first == second
    assert len(first[1]) >= 5


def recording(value, made):
    """A copy of a graph's value in which every node calls the recorder; sharing is kept."""
    if is_leaf(value) or isinstance(value, (Var, Calc)):
        return value
    if id(value) not in made:
        inside = {key: recording(child, made) for key, child in children(value)}
        if isinstance(value, Node):
            args = tuple(inside[index] for index in range(len(value.args)))
            new = Node("viewtoys:Thing", value.mode, (value.target, *args), {key: inside[key] for key in value.kwargs})
        elif isinstance(value, dict):
            new = inside
        else:
            new = type(value)(inside.values())
        made[id(value)] = new, value
    return made[id(value)][0]
