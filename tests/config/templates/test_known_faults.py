"""Faults of other implementations of this language; each of them was met in practice."""

import subprocess
import sys

import pytest

from ironloom import config
from ironloom.config import tagged
from ironloom.errors import ConfigError


def test_a_comment_mark_inside_quotes_does_not_cut_the_text(folder):
    assert folder.main('main: "foo ## bar"\n') == "foo ## bar"


def test_a_comment_after_a_statement_is_no_error(folder):
    folder.write("main: !call:dict\n-- block b\n  a: 1\n-- endblock\n", "base.yaml")
    assert folder.main(
        "-- extends 'base.yaml'  # the base\n-- block b  # again\n  == super()  # Include\n-- endblock b # end\n"
    ).kwargs == {"a": 1}


def test_a_document_may_have_a_hyphen_in_its_name(folder):
    assert folder.main("-- include 'my-part'\n#---- my-part ----\nmain: 1\n") == 1


def test_documents_of_the_same_name_in_two_files_do_not_mix(folder):
    folder.write("-- include 'part'\n#---- part ----\nbase: 1\n", "base.yaml")
    root = folder.load("-- include 'base.yaml'\n-- include 'part'\n#---- part ----\nmain: 2\n").root
    assert root == {"base": 1, "main": 2}


def test_an_included_text_does_not_glue_to_the_next_line(folder):
    folder.write("a: 1", "part.yaml")
    assert folder.load("-- include 'part.yaml'\nmain: 2\n").root == {"a": 1, "main": 2}


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1.0e2", 100.0), ("yes", "yes"), ("on", "on"), ("2020-01-01", "2020-01-01")])
def test_scalars_mean_what_they_look_like(folder, text, value):
    assert folder.main(f"main: {text}\n") == value


def test_a_scalar_is_one_argument(folder):
    assert config.build(folder.load('main: !call:len "abc"\n')) == 3


def test_empty_containers_stay_what_they_are(folder):
    text = "main: [!tuple [], !tuple , !dlist {}, !list [], [], {}, !dict {}, !dlist {~: ~}]\n"
    graph = folder.load(text)
    wanted = [(), (), [], [], [], {}, {}, []]
    for again in (graph, tagged.load(tagged.dump(graph), "f")):
        built = config.build(again)
        assert built == wanted and [type(part) for part in built] == [type(part) for part in wanted]


def test_a_dotted_name_without_a_colon_can_be_built(folder):
    assert config.build(folder.load("main: !call:collections.OrderedDict {a: 1}\n")) == {"a": 1}
    assert config.build(folder.load("main: !partial:os.path.join [a]\n"))("b") == "a/b"


def test_a_default_of_a_variable_that_is_a_node_is_built(folder):
    assert config.build(folder.load("main: !var {name: x, default: !call:dict {a: 1}}\n")) == {"a": 1}


def test_sharing_in_the_text_is_sharing_in_memory_for_plain_containers(folder):
    one, two = config.build(folder.load(".x: &x {a: [1]}\nmain: [*x, *x]\n"))
    assert one is two


def test_singletons_belong_to_one_build(folder):
    graph = folder.load("main: !call:dict {a: !var {name: x, default: 0}}\n")
    assert config.build(graph, variables={"x": 1}) == {"a": 1}
    assert config.build(graph, variables={"x": 2}) == {"a": 2}


def test_a_singleton_that_gives_none_is_called_once(folder):
    folder.write("CALLS = []\ndef nothing():\n    CALLS.append(1)\ndef calls(*_):\n    return len(CALLS)\n", "code.py")
    text = ".n: &n !call:code.py:nothing\nmain: !call:code.py:calls [*n, *n, *n]\n"
    assert config.build(folder.load(text)) == 1


def test_names_are_given_once(folder):
    with pytest.raises(ConfigError, match="the name 'x' is taken by"):
        folder.load("a: !call:dict@x\nmain: !call:list@x\n")


def test_keywords_may_have_any_name(folder):
    assert config.build(folder.load("main: !call:dict {constructor: 1, _identity: 2, latent_args: 3, submodule_searchpath: 4}\n")) == {
        "constructor": 1,
        "_identity": 2,
        "latent_args": 3,
        "submodule_searchpath": 4,
    }


def test_a_tag_that_begins_like_another_is_refused(folder):
    with pytest.raises(ConfigError, match="the tag '!callable:x:y' has no meaning here"):
        folder.load("main: !callable:x:y\n")


def test_a_set_and_a_timestamp_are_no_crash(folder):
    assert folder.main("main: 2024-01-01 10:00:00\n") == "2024-01-01 10:00:00"
    with pytest.raises(ConfigError, match="no meaning here"):
        folder.load("main: !!set {a}\n")


def test_texts_with_backslashes_and_empty_lists_survive_writing(folder):
    graph = folder.load("main: {a: 'a\\.b', b: [], c: \"x\\ny\"}\n")
    assert config.build(tagged.load(tagged.dump(graph), "f")) == {"a": "a\\.b", "b": [], "c": "x\ny"}


def test_an_error_while_building_names_the_path_and_the_template_line(folder, shown):
    folder.write("def fail():\n    raise KeyError('x')\n", "code.py")
    graph = folder.load("-- set x = 1\nmain:\n  a:\n    - !call:code.py:fail\n")
    with pytest.raises(KeyError) as caught:
        config.build(graph)
    assert shown(caught.value.__notes__[0]).endswith("code.py:fail for main.a.0, main.yaml:4:7")


def test_a_meta_node_gets_its_arguments_unbuilt(folder):
    folder.write("def fail():\n    raise KeyError('x')\ndef look(*args, **kwargs):\n    return args, kwargs\n", "code.py")
    args, kwargs = config.build(
        folder.load("main: !meta:code.py:look\n  args: [!call:code.py:fail ]\n  kwargs: {a: !call:code.py:fail }\n")
    )
    assert [node.target.rpartition("/")[2] for node in (*args, *kwargs.values())] == ["code.py:fail"] * 2


def test_nothing_is_imported_to_read_and_check(folder):
    file = folder.write(
        "main: !call:json.tool:main {}\nb: !partial:torch.optim.AdamW {lr: 1e-3}\nc: !call:torch.nn:Linear {in_features: 1}\n"
    )
    code = f"""
import sys
from ironloom.config import check, templates
graph = templates.load({str(file)!r}, [])
assert [problem.path for problem in check(graph)] == ["c"], check(graph)
assert not {{"torch", "json.tool"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
