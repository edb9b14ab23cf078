"""Projects: what meta.yaml says, which configurations there are, and where templates are found."""

import pathlib

import pytest

from ironloom.config import projects
from ironloom.config.projects.meta import LIBRARY
from ironloom.errors import ConfigError


@pytest.fixture
def make(tmp_path):
    """Make files in the test's folder from a mapping of names to texts; returns the folder."""

    def make(files):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return tmp_path

    return make


def refused(function, *args):
    with pytest.raises(ConfigError) as error:
        function(*args)
    return error.value.problems


PROJECT = {
    "work/p/meta.yaml": "name: Small\ndescription: one line\ndefault_config: b.yaml\n",
    "work/p/templates/configs/a.yaml": "main: 1\n",
    "work/p/templates/configs/b.yaml": "main: 2\n",
    "work/p/templates/configs/deep/c.yml": "main: 3\n",
    "work/p/templates/configs/.hidden/d.yaml": "main: 4\n",
    "work/p/templates/configs/notes.md": "",
    "work/p/templates/other.yaml": "main: 5\n",
}


def test_a_project_is_the_nearest_ancestor_with_a_meta_yaml(make):
    folder = make({**PROJECT, "work/p/inner/meta.yaml": "name: Inner\n", "work/p/inner/x/file.yaml": ""})
    project = projects.find(folder / "work/p/templates/configs/a.yaml")
    assert (project.name, project.description, project.default, project.prefix) == ("Small", "one line", "b.yaml", "configs")
    assert project.folder == folder / "work/p"
    assert list(project.configs) == ["a.yaml", "b.yaml", "deep/c.yml"], "hidden folders and other files are no configurations"
    assert projects.find(folder / "work/p/inner/x").name == "Inner"
    assert projects.find(folder / "work") is None


def test_a_project_without_keys_is_called_after_its_folder_and_has_the_first_configuration(make):
    folder = make({"q/meta.yaml": "## nothing\n", "q/templates/configs/z.yaml": "a: 1\n"})
    project = projects.find(folder / "q")
    assert (project.name, project.default, project.workspace) == ("q", "z.yaml", None)
    assert projects.find(make({"r/meta.yaml": "{}\n"}) / "r").default is None


def test_templates_are_found_in_the_project_then_in_the_workspace_then_in_the_library(make):
    folder = make({**PROJECT, "forgather_workspace/shared.yaml": "a: 1\n"})
    config = folder / "work/p/templates/configs/a.yaml"
    assert projects.search_path(config) == [folder / "work/p/templates", config.parent, folder / "forgather_workspace", LIBRARY]
    outside = make({"elsewhere/ironloom_workspace/x.yaml": "", "elsewhere/f.yaml": "a: 1\n"}) / "elsewhere/f.yaml"
    assert projects.search_path(outside) == [outside.parent, outside.parent / "ironloom_workspace", LIBRARY]
    assert LIBRARY.is_dir()


def test_searchdir_and_config_prefix_say_where_configurations_are(make):
    files = {"s/meta.yaml": "searchdir: [one, two]\nconfig_prefix: runs\n"}
    files |= {f"s/{folder}/runs/{name}.yaml": "a: 1\n" for folder in ("one", "two") for name in ("same", folder)}
    folder = make({**files, "s/two/configs/no.yaml": ""})
    project = projects.find(folder / "s")
    assert list(project.configs) == ["one.yaml", "same.yaml", "two.yaml"]
    assert project.configs["same.yaml"] == folder / "s/one/runs/same.yaml", "the first folder wins"
    assert project.search_path[:2] == [folder / "s/one", folder / "s/two"]


def test_meta_yaml_is_a_template_that_can_build_on_the_workspace(make):
    own = '-- extends "meta_defaults.yaml"\n-- set word = "templ"\n-- block configs\nname: "{{ word }}ated"\n-- endblock\n'
    folder = make(
        {
            "ironloom_workspace/meta_defaults.yaml": "-- block configs\n-- endblock\ndescription: shared\n",
            "t/meta.yaml": own,
        }
    )
    assert (projects.find(folder / "t").name, projects.find(folder / "t").description) == ("templated", "shared")


def test_the_library_has_defaults_of_meta_yaml(make):
    text = "-- extends 'meta_defaults.yaml'\n-- block configs\nname: X\n-- endblock\n-- block searchdir_common\n    - more\n-- endblock\n"
    folder = make({"u/meta.yaml": text, "u/templates/configs/a.yaml": "a: 1\n", "u/more/m.yaml": ""})
    project = projects.find(folder / "u")
    assert project.name == "X" and project.search_path == [folder / "u/templates", folder / "u/more", LIBRARY]


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("name: A\ndefault_confg: a.yaml\n", 2, "unknown key", "did you mean 'default_config'?"),
        ("name: [A]\n", 1, "expected a text, found ['A']", ""),
        ("default_config: c.yaml\n", 1, "has no configuration 'c.yaml'", "did you mean 'a.yaml'?"),
        ("name: A\nsearchdir:\n  - templates\n  - tempaltes\n", 4, "there is no folder 'tempaltes'", "looked up in"),
        ("system_path: 3\n", 1, "expected a folder, found 3", ""),
        ("- name\n", 1, "expected a mapping of keys", ""),
        ("name: {{ nmae }}\n", 1, "'nmae' is undefined", ""),
        ("name: A\ndescription: 'x\n", 2, "is not valid YAML", ""),
    ],
)
def test_what_is_wrong_in_meta_yaml_is_named_with_its_line(make, text, line, message, hint):
    folder = make({"v/meta.yaml": text, "v/templates/configs/a.yaml": "a: 1\n"})
    (problem,) = refused(projects.find, folder / "v")
    assert message in problem.message and hint in problem.hint
    assert (problem.origin.source, problem.origin.line) == (str(folder / "v/meta.yaml"), line)


def test_mistakes_of_meta_yaml_are_reported_together(make):
    folder = make({"w/meta.yaml": "nam: A\ndescription: 3\nsystem_path: nowhere\n"})
    assert len(refused(projects.find, folder / "w")) == 3


def test_a_configuration_is_a_file_a_folder_or_a_name_of_the_project_here(make):
    folder = make(PROJECT)
    inside = folder / "work/p"
    assert projects.choose("templates/other.yaml", inside) == str(inside / "templates/other.yaml")
    assert projects.choose("work/p", folder) == str(inside / "templates/configs/b.yaml")
    for name in ("a", "a.yaml"):
        assert projects.choose(name, inside / "templates") == str(inside / "templates/configs/a.yaml")
    assert projects.choose("deep/c", inside) == str(inside / "templates/configs/deep/c.yml")
    assert projects.choose(None, inside) == str(inside / "templates/configs/b.yaml")
    assert projects.choose("made.py:config", folder) == f"{folder / 'made.py'}:config"


def test_a_chosen_configuration_is_written_as_people_write_it(make, monkeypatch):
    monkeypatch.chdir(make(PROJECT) / "work")
    assert projects.choose("p") == "p/templates/configs/b.yaml"
    monkeypatch.chdir("p/templates")
    assert projects.choose("a") == "configs/a.yaml"
    monkeypatch.chdir("configs/deep")
    assert pathlib.Path(projects.choose("a")).resolve() == pathlib.Path("../a.yaml").resolve()


@pytest.mark.parametrize(
    ("word", "where", "hint"),
    [
        ("aa", "work/p", "did you mean 'a'"),
        ("b.yml", "work/p", "did you mean 'b.yaml'?"),
        ("othr.yaml", "work/p/templates", "other.yaml"),
        ("zzz", "work/p", "it has a.yaml, b.yaml, deep/c.yml"),
    ],
)
def test_a_configuration_that_does_not_exist_is_named_with_the_nearest_one(make, word, where, hint):
    (problem,) = refused(projects.choose, word, make(PROJECT) / where)
    assert "no such configuration in the project 'Small'" in problem.message and hint in problem.hint


def test_a_folder_without_a_project_says_what_it_holds(make):
    folder = make({"plain/one.yaml": "a: 1\n", "empty/x.txt": ""})
    assert "it holds one.yaml" in refused(projects.choose, "plain", folder)[0].hint
    assert "meta.yaml" in refused(projects.choose, "empty", folder)[0].hint
    assert "no configuration" in refused(projects.choose, "r", make({"r/meta.yaml": ""}))[0].message
    assert "which configuration?" in refused(projects.choose, None, folder)[0].message


def test_a_block_that_ends_under_another_name_says_where_it_begins(make):
    folder = make({"x/meta.yaml": "-- block configs\nname: A\n-- endblock\n-- block confgs\n-- endblock configs\n"})
    (problem,) = refused(projects.find, folder / "x")
    assert problem.origin.line == 5 and problem.hint == "the block that ends here as 'configs' begins as 'confgs' in line 4"
