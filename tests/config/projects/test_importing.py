"""Targets of another project in a graph: what they become, and what is wrong before anything starts."""

import pathlib
import sys

import pytest

from ironloom import config
from ironloom.config import projects, tagged
from ironloom.config.graph import Node, walk
from ironloom.errors import ConfigError

SHOP = """
class Thing:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
"""
OTHER = """\
-- set size = size | default(3)
thing: &thing !singleton:shop:Thing@thing
    size: {{ size }}
    extra: !var {name: extra, default: none}
pair: !singleton:shop:Thing [*thing, *thing]
needy: !singleton:shop:Thing [!var "given"]
main: *thing
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A project ``other``, a project ``mine`` beside it, and the main configuration of the latter."""
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", path)

    def make(text, other=OTHER, **more):
        files = {
            "other/meta.yaml": "system_path: [code]\n",
            "other/templates/configs/base.yaml": other,
            "other/code/shop.py": SHOP,
            "mine/meta.yaml": "name: Mine\n",
            "mine/templates/configs/run.yaml": text,
            **more,
        }
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        return str(tmp_path / "mine/templates/configs/run.yaml")

    yield make
    sys.modules.pop("shop", None)
    from ironloom.config.static import modules

    modules.find_module.cache_clear()


def refused(path):
    with pytest.raises(ConfigError) as error:
        config.load(path)
    return error.value.problems


def test_an_imported_target_is_part_of_the_graph(make):
    path = make("main: !call:forgather:from_project {project_dir: ../other, targets: pair}\n")
    graph = config.load(path)
    pair = graph.root["main"]
    assert (pair.target, pair.args[0].kwargs["size"]) == ("shop:Thing", 3)
    assert pair.args[0] is pair.args[1], "what is shared there is shared here"
    assert config.check(graph) == [], "its modules are found"
    origin = graph.origins[("main", 0, "size")]
    assert (pathlib.Path(origin.source).name, origin.line) == ("base.yaml", 3), "explained by the other project's file"
    built = config.build(graph)
    assert built.args[0] is built.args[1] and built.args[0].kwargs["size"] == 3


def test_several_targets_are_a_mapping_and_arguments_reach_the_other_project(make):
    path = make(
        """\
main: !call:ironloom.config.projects:from_project
    project_dir: ../other
    config_template: base
    targets: [thing, needy]
    pp_kwargs: {size: 5}
    given: &list !list [1]
    extra: *list
"""
    )
    main = config.build(config.load(path))
    assert main["thing"].kwargs["size"] == 5
    assert main["needy"].args[0] == [1] and main["needy"].args[0] is main["thing"].kwargs["extra"]


def test_each_import_is_its_own_and_names_stay_unique(make):
    text = """\
one: !call:forgather:from_project [../other]
two: &two !call:forgather:from_project [../other]
main: [*two, *two]
"""
    graph = config.load(make(text))
    assert graph.root["one"] is not graph.root["two"]
    assert graph.root["main"][0] is graph.root["main"][1] is graph.root["two"]
    assert [value.name for _, value in walk(graph.root) if isinstance(value, Node)] == ["thing", "thing_2"]
    text = tagged.dump(graph)
    assert "from_project" not in text and tagged.dump(tagged.load(text, "run.yaml")) == text


def test_a_partial_imports_when_it_is_called(make, monkeypatch, tmp_path):
    path = make("main: !partial:forgather:from_project [../other]\n")
    graph = config.load(path)
    monkeypatch.chdir(tmp_path / "other")  # the folder does not depend on where the process is
    assert config.build(graph)().kwargs["size"] == 3
    assert "no target 'thin'" in refused(make("main: !partial:forgather:from_project {project_dir: ../other, targets: thin}\n"))[0].message


def test_where_modules_are_goes_along_with_the_graph(make, tmp_path):
    graph = config.load(make("main: !call:forgather:from_project [../other]\n"))
    assert graph.root["system_path"] == [str(tmp_path / "other/code")]
    sys.path.remove(str(tmp_path / "other/code"))
    run = tmp_path / "run.yaml"
    run.write_text(tagged.dump(graph))
    assert config.check(config.load(run)) == []


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("{project_dir: ../othr}", "there is no project", "other'?"),
        ("{project_dir: ..}", "there is no project", "meta.yaml"),
        ("{project_dir: ../other, config_template: bse}", "no configuration 'bse'", "did you mean 'base"),
        ("{project_dir: ../other, targets: pear}", "has no target 'pear'", "did you mean 'pair'?"),
        ("{project_dir: ../other, targets: [thing, pear]}", "has no target 'pear'", "did you mean 'pair'?"),
        ("{targets: pair}", "needs project_dir", ""),
        ("{project_dir: 3}", "expected a folder", ""),
        ("{project_dir: ../other, targets: 3}", "expected a name or a list of names", ""),
        ("{project_dir: !call:os:getcwd []}", "known without building", ""),
        ("[../other, base, pair, {}, 5]", "takes 4 arguments by position, found 5", ""),
    ],
)
def test_what_cannot_be_imported_is_named_before_anything_starts(make, arguments, message, hint):
    path = make(f"a: 1\nmain: !call:forgather:from_project {arguments}\n")
    (problem,) = refused(path)
    assert message in problem.message and hint in problem.hint
    assert problem.origin.line is not None


def test_mistakes_of_the_other_project_name_both_places(make):
    first, second = refused(make("a: 1\nmain: !call:forgather:from_project [../other]\n", other="main: {{ nowhere }}\n"))
    assert "'nowhere' is undefined" in first.message and first.origin.source.endswith("base.yaml")
    assert (pathlib.Path(second.origin.source).name, second.origin.line) == ("run.yaml", 2)


def test_all_imports_that_fail_are_reported_together(make):
    path = make("main: [!call:forgather:from_project [../a], !call:forgather:from_project [../b]]\n")
    assert len(refused(path)) == 2


def test_a_configuration_is_not_imported_into_itself(make):
    other = "main: !call:forgather:from_project [../mine]\n"
    problems = refused(make("main: !call:forgather:from_project [../other]\n", other=other))
    assert "cannot be imported into itself" in problems[0].message


def test_importing_in_python_builds_the_targets(make, tmp_path):
    make("main: 1\n")
    thing = projects.from_project(str(tmp_path / "other"), targets="needy", given=7)
    assert thing.args == (7,)
