"""Live objects from graphs: sharing, the three modes, errors that say where."""

import functools
import pickle
import subprocess
import sys

import pytest

from ironloom.config.build import Partial, build
from ironloom.config.graph import Calc, Graph, Node, Var
from ironloom.errors import ConfigError, DataError, Origin


def thing(*args, mode="call", **kwargs):
    return Node("toys:Thing", mode, args, kwargs)


def test_a_call_is_made_once_per_build(toys):
    shared = thing()
    graph = Graph({"main": [shared, shared, {"x": shared}], "other": shared})
    first = build(graph, ["main", "other"])
    assert first["main"][0] is first["main"][1] is first["main"][2]["x"] is first["other"]
    assert len(toys.LOG) == 1
    assert build(graph)[0] is not first["main"][0]


def test_a_call_that_returns_none_is_made_once(toys):
    node = Node("toys:nothing")
    assert build(Graph({"main": [node, node]})) == [None, None]
    assert toys.LOG == [None]


def test_a_factory_is_made_at_each_occurrence_with_shared_calls_inside(toys):
    inner = thing()
    factory = thing(inner, mode="factory")
    one, two = build(Graph({"main": [factory, factory]}))
    assert one is not two
    assert one.args[0] is two.args[0]


def test_equal_but_separate_nodes_are_separate_objects(toys):
    one, two = build(Graph({"main": [thing(), thing()]}))
    assert one is not two


def test_a_container_that_stands_twice_is_one_object(toys):
    items = [1]
    main = build(Graph({"main": {"a": items, "b": items, "c": [1]}}))
    assert main["a"] is main["b"]
    assert main["a"] is not main["c"]
    assert main["a"] is not items, "building must not hand out the graph's own containers"


def test_each_object_of_a_factory_has_its_own_containers(toys):
    factory = thing([1], mode="factory")
    one, two = build(Graph({"main": [factory, factory]}))
    assert one.args[0] == two.args[0] == [1]
    assert one.args[0] is not two.args[0]


def test_a_partial_appends_positions_and_merges_keywords(toys):
    partial = build(Graph({"main": Node("toys:anything", "partial", (1,), {"a": 1, "b": 2})}))
    assert partial(2, b=3, c=4) == ((1, 2), {"a": 1, "b": 3, "c": 4})


def test_a_partial_makes_factories_anew_at_each_call_and_shares_calls(toys):
    shared = thing()
    partial = Node("toys:anything", "partial", (shared, thing(mode="factory")))
    built = build(Graph({"main": partial, "shared": shared}), ["main", "shared"])
    (first_shared, first_new), _ = built["main"]()
    (second_shared, second_new), _ = built["main"]()
    assert first_shared is second_shared is built["shared"]
    assert first_new is not second_new


def test_arguments_of_a_partial_wait_for_its_call(toys):
    partial = build(Graph({"main": Node("toys:anything", "partial", (thing(),))}))
    assert toys.LOG == []
    partial()
    assert len(toys.LOG) == 1


def test_a_partial_without_arguments_is_the_target_itself(toys):
    assert build(Graph({"main": Node("toys:plain", "partial")})) is toys.plain


def test_a_partial_survives_pickling_with_its_arguments():
    partial = build(Graph({"main": Node("builtins:dict", "partial", (), {"a": [1]})}))
    assert isinstance(partial, Partial)
    copy = pickle.loads(pickle.dumps(partial))
    assert isinstance(copy, functools.partial)
    assert copy(b=2) == {"a": [1], "b": 2}


def test_variables_come_from_the_caller_or_their_default(toys):
    graph = Graph({"main": [Var("a"), Var("b", thing())]})
    a, b = build(graph, variables={"a": 1})
    assert a == 1
    assert isinstance(b, toys.Thing)
    with pytest.raises(ConfigError, match=r"'steps' has no value \(did you mean 'step'\?\)"):
        build(Graph({"main": Var("steps")}), variables={"step": 1})


def test_several_names_give_a_dict_and_an_unknown_one_is_named(toys):
    graph = Graph({"main": 1, "trainer": 2})
    assert build(graph, ("main", "trainer")) == {"main": 1, "trainer": 2}
    assert build([1, (2, {"a": 3})]) == [1, (2, {"a": 3})]
    with pytest.raises(ConfigError, match="did you mean 'trainer'"):
        build(graph, "trainr")


def test_only_what_is_asked_for_is_imported():
    code = """
import sys
from ironloom.config.build import build
from ironloom.config.graph import Graph, Node
graph = Graph({"main": Node("torch:zeros", args=(1,)), "args": Node("builtins:dict", kwargs={"a": 1})})
assert build(graph, "args") == {"a": 1}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_errors_say_where_in_the_configuration(toys):
    node = Node("toys:fail", kwargs={"value": 1}, origin=Origin("run.yaml", 7, 3))
    with pytest.raises(KeyError, match="broken") as caught:
        build(Graph({"main": thing(inner=[node])}))
    assert caught.value.__notes__ == ["while calling toys:fail for main.inner.0, run.yaml:7:3"]
    assert caught.traceback[-1].name == "fail"


def test_a_users_error_keeps_its_kind(toys):
    graph = Graph({"main": Node("toys:data_error")}, {("main",): Origin("a.yaml", 2, 1)})
    with pytest.raises(DataError, match="empty corpus") as caught:
        build(graph)
    assert caught.value.__notes__ == ["while calling toys:data_error for main, a.yaml:2:1"]


def test_errors_at_the_call_of_a_partial_say_where_too(toys):
    partial = build(Graph({"main": Node("toys:fail", "partial", (1,))}))
    with pytest.raises(KeyError) as caught:
        partial()
    assert "main" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("toyz:Thing", "there is no module 'toyz'"),
        ("toys.sub:Thing", "there is no module 'toys.sub'"),
        ("toys:Thingy", r"has no 'Thingy'.*did you mean 'Thing'"),
        ("toys:Maker.mke", r"did you mean 'make'"),
        ("toys", "form module:attribute"),
    ],
)
def test_a_target_that_does_not_exist_is_named(toys, target, message):
    node = Node(target, origin=Origin("run.yaml", 3, 9))
    with pytest.raises(ConfigError, match=message) as caught:
        build(Graph({"main": node}))
    assert str(caught.value).startswith("run.yaml:3:9: main: ")


def test_an_import_that_fails_inside_the_module_is_not_taken_for_a_wrong_name(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="main: needy:thing needs the module 'not_installed_anywhere', which is not installed") as caught:
        build(Graph({"main": Node("needy:thing")}))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("mode", ["call", "factory"])
def test_a_node_that_needs_itself_is_an_error(toys, mode):
    kwargs = {}
    node = Node("toys:Thing", mode, (), kwargs)
    kwargs["inner"] = {"deep": node}
    with pytest.raises(ConfigError, match=r"main\.inner\.deep: needs itself"):
        build(Graph({"main": node}))


def test_a_container_that_holds_itself_is_an_error():
    items = []
    items.append(items)
    with pytest.raises(ConfigError, match="needs itself"):
        build(Graph({"main": items}))


@pytest.mark.parametrize("target", ["", "a:b@c"])
def test_a_target_that_cannot_be_written_is_refused(target):
    with pytest.raises(ValueError, match="module:attribute"):
        Node(target)


def test_a_meta_node_is_called_once_with_its_arguments_as_they_stand(toys):
    inner = thing()
    node = Node("toys:anything", "meta", (inner,), {"a": Var("x")})
    one, two = build(Graph({"main": [node, node]}))
    assert one is two
    assert one[0][0] is inner and isinstance(one[1]["a"], Var)
    assert toys.LOG == []


def test_calculations_use_the_variables():
    graph = Graph({"main": [Calc("int(steps * 0.1)"), Calc("1 + 1")]})
    assert build(graph, variables={"steps": 100}) == [10, 2]
    with pytest.raises(ConfigError, match=r"a.yaml:3:4: main: variable 'stps' has no value \(did you mean 'steps'\?\)"):
        build(Graph({"main": Calc("stps + 1", Origin("a.yaml", 3, 4))}), variables={"steps": 1})
    with pytest.raises(ConfigError, match=r"main: cannot calculate '1 / zero': division by zero"):
        build(Graph({"main": Calc("1 / zero")}), variables={"zero": 0})


def test_a_python_file_runs_once_in_a_process_and_its_objects_can_be_pickled(tmp_path):
    file = tmp_path / "my folder" / "my: code.py"
    file.parent.mkdir()
    file.write_text("RUNS = []\nRUNS.append(1)\nclass Thing:\n    count = len(RUNS)\n    class Inner: pass\n")
    one, two = build(Graph({"main": [Node(f"{file}:Thing"), Node(f"{file}:Thing.Inner")]}))
    assert one.count == 1 and type(two) is type(one).Inner
    assert build(Graph({"main": Node(f"{file}:Thing", "partial")})) is type(one)
    assert type(pickle.loads(pickle.dumps(one))) is type(one)


def test_mistakes_with_python_files_are_named(tmp_path):
    file = tmp_path / "code.py"
    with pytest.raises(ConfigError, match=r"main: there is no file '.*code.py'"):
        build(Graph({"main": Node(f"{file}:Thing")}))
    file.write_text("class Thing: pass\nraise SystemError('broken')\n")
    with pytest.raises(SystemError, match="broken"):
        build(Graph({"main": Node(f"{file}:Thing")}))
    file.write_text("class Thing: pass\n")
    with pytest.raises(ConfigError, match=r"has no 'Thin'.*did you mean 'Thing'"):
        build(Graph({"main": Node(f"{file}:Thin")}))
