"""What the words of ``ironloom check`` and ``ironloom train`` mean: configurations, overrides, declared options."""

import pathlib
import textwrap
from types import SimpleNamespace

import pytest

from ironloom.cli import main
from ironloom.cli.configuration import split
from ironloom.errors import ConfigError

CONFIG = """\
# A run with options.
-- block dynamic_args
dynamic_args: !dlist
    steps: {names: [--max-steps, -m], type: int, help: "How long."}
    deep: {names: --deep, action: store_true}
    tags: {names: --tags, nargs: "+"}
-- endblock
-- set depth = 8 if deep | default(true) else 1
main: &main !call:ironloom.settings:TrainingArguments
    max_steps: {{ max_steps | default(7) }}
    logging_steps: {{ depth }}
    output_dir: "{{ tags | default(['out']) | join('-') }}"
trainer_args: *main
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the configurations ``run.yaml`` and ``needs.yaml``; the current folder lies above it."""
    configs = tmp_path / "small/templates/configs"
    configs.mkdir(parents=True)
    (tmp_path / "small/meta.yaml").write_text("name: Small\ndefault_config: run.yaml\n")
    (configs / "run.yaml").write_text(CONFIG)
    (configs / "needs.yaml").write_text(CONFIG.replace("max_steps | default(7)", "max_steps"))
    monkeypatch.chdir(tmp_path)
    return configs


@pytest.fixture
def ironloom(capsys):
    def ironloom(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=out, err=err)

    return ironloom


def loaded(*words):
    from ironloom import config

    found = split(words)
    return config.load(found.path, found.overrides, found.arguments).root["main"].kwargs


RUN = "small/templates/configs/run.yaml"


@pytest.mark.parametrize(
    "words",
    [
        [RUN, "--max-steps", "3", "main.seed=1"],
        ["main.seed=1", "--max-steps", "3", RUN],
        ["--max-steps=3", RUN, "main.seed=1"],
        ["-m", "3", "small", "main.seed=1"],
    ],
)
def test_words_come_in_any_order(project, words):
    assert loaded(*words) == {"max_steps": 3, "logging_steps": 8, "output_dir": "out", "seed": 1}


def test_the_templates_default_wins_unless_a_flag_is_given(project):
    assert loaded("small")["logging_steps"] == 8
    assert loaded("small", "--deep")["logging_steps"] == 8
    assert loaded("small", "--no-deep")["logging_steps"] == 1


def test_several_values_end_at_the_next_override_or_option(project):
    assert loaded("--tags", "a", "b", "main.seed=1", "small")["output_dir"] == "a-b"
    assert loaded("small", "--tags", "a", "b", "-m", "2")["output_dir"] == "a-b"


def test_a_name_means_a_configuration_of_the_project_here(project, monkeypatch):
    monkeypatch.chdir("small")
    assert split(["run", "--max-steps", "3"]).path == "templates/configs/run.yaml"
    (pathlib.Path("run.yaml")).write_text(CONFIG)
    assert split(["run.yaml"]).path == "run.yaml", "a file is meant first"


def test_further_words_are_for_commands_that_take_them(project):
    assert split(["small", "trainer_args"], others=1).others == ["trainer_args"]
    with pytest.raises(ConfigError, match="one configuration at a time, found 'small', 'other'"):
        split(["small", "other"])
    with pytest.raises(ConfigError, match="which configuration"):
        split(["main.seed=1"])


def test_check_takes_the_options(ironloom, project):
    assert ironloom("check", "small", "--max-steps", "-3").code == 2
    result = ironloom("check", "small", "--max-steps", "3", "--no-deep")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_wrong_option_is_an_error_with_the_nearest_one(ironloom, project, command):
    result = ironloom(command, "small", "--max-stepz", "3")
    assert (result.code, result.err) == (2, "error: command line: there is no option '--max-stepz' (did you mean '--max-steps'?)\n")
    assert ironloom(command, "small", "--max-steps", "x").code == 2


def test_an_option_of_the_command_itself_is_suggested(ironloom, project):
    assert "did you mean '--fresh'?" in ironloom("train", "small", "--frsh").err


def test_a_configuration_that_needs_an_option_says_so_or_takes_it(ironloom, project):
    assert "'max_steps' is undefined" in ironloom("check", project / "needs.yaml").err
    assert ironloom("check", project / "needs.yaml", "--max-steps", "3").code == 0
    assert "did you mean '--max-steps'?" in ironloom("check", project / "needs.yaml", "--max-steps", "3", "--mx-steps", "4").err


def test_help_lists_the_options_of_the_configuration(ironloom, project):
    for words in (["train", "small", "--help"], ["train", "--help", "small"]):
        result = ironloom(*words)
        assert result.code == 0
        assert "--max-steps, -m INT" in result.out and "How long." in result.out and "--deep, --no-deep" in result.out
        assert "--fresh" in result.out, "the command's own options are there too"
    assert "--max-steps" not in ironloom("train", "--help").out
    assert "cannot be read" in ironloom("train", "nothing.yaml", "--help").out


def test_other_styles_have_no_options(ironloom, project):
    groups = project / "groups.yaml"
    groups.write_text("data: {train_datasets: [python-docs]}\nmodel: {tokenizer_type: bbpe, vocab_name_or_path: null}\n")
    assert "there is no option '--max-steps'" in ironloom("check", groups, "--max-steps", "3").err


def test_wrong_declarations_are_reported_together_with_their_lines(ironloom, project):
    text = textwrap.dedent(
        """\
        dynamic_args: !dlist
            first: {names: steps}
            second: {names: --deep, type: integer}
        main: {{ 1 }}
        """
    )
    (project / "wrong.yaml").write_text(text)
    result = ironloom("check", project / "wrong.yaml")
    assert result.code == 2 and len(result.err.splitlines()) == 2
    assert f"{project / 'wrong.yaml'}:2" in result.err and f"{project / 'wrong.yaml'}:3" in result.err
    assert "dynamic_args.first.names" in ironloom("check", project / "wrong.yaml", "--deep").err
    assert "did you mean 'int'?" in result.err


def test_warnings_go_to_stderr(ironloom, project):
    (project / "idle.yaml").write_text("-- extends 'run.yaml'\n-- block dynamic_arg\n-- endblock\n")
    result = ironloom("check", project / "idle.yaml")
    assert result.code == 0 and result.err.startswith("warning: ") and "overrides nothing" in result.err


def test_a_wrong_level_of_messages_is_found_by_check(ironloom, project):
    result = ironloom("check", "small", "log_level=debg")
    assert result.code == 2 and "log_level" in result.err
    (project / "loud.yaml").write_text("log_level: Debg\n" + CONFIG.replace("# A run with options.\n", ""))
    result = ironloom("check", project / "loud.yaml")
    assert result.code == 2 and f"{project / 'loud.yaml'}:1" in result.err and "did you mean 'DEBUG'?" in result.err


def test_a_required_option_that_is_missing_is_named(ironloom, project):
    text = CONFIG.replace("type: int, help", "type: int, required: true, help")
    (project / "strict.yaml").write_text(text)
    result = ironloom("check", project / "strict.yaml")
    assert result.code == 2 and f"{project / 'strict.yaml'}:4" in result.err
    assert "the option --max-steps is needed (How long. [required])" in result.err
    assert "is needed" in ironloom("check", project / "strict.yaml", "--deep").err
    assert ironloom("check", project / "strict.yaml", "-m", "3").code == 0


def test_options_are_no_part_of_the_resolved_configuration(project):
    from ironloom import config

    graph = config.load(project / "run.yaml", (), {"max_steps": 3})
    assert list(graph.root) == ["main", "trainer_args"] and {path[0] for path in graph.origins} == {"main"}


def test_options_are_variables_of_templates_and_graphs(project):
    text = CONFIG.replace("logging_steps: {{ depth }}", 'logging_steps: !var "max_steps"\n    save_steps: !calc "max_steps * 2"')
    (project / "var.yaml").write_text(text)
    assert loaded(str(project / "var.yaml"), "--max-steps", "3") == {
        "max_steps": 3,
        "logging_steps": 3,
        "save_steps": 6,
        "output_dir": "out",
    }
