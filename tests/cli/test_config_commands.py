"""The commands about configurations: what they print, their exit codes, and what they do not import."""

import json
import pathlib
import subprocess
import sys
import tomllib

import pytest

from ironloom import cli
from ironloom.config import tagged

ROOT = pathlib.Path(__file__).parents[2]
GROUPS = """\
# A run for tests.
data: {train_datasets: [python-docs]}
model: {tokenizer_type: byte, d_model: 32, d_ffn: 64, head_dim: 16, num_attention_heads: 2}
operation: {train_steps: 5}
"""
TEMPLATE = """\
-- set steps = 5
meta:
    config_name: "Small"
    config_description: "a template for tests"
# The arguments.
trainer_args: &args !call:ironloom.settings:TrainingArguments
    output_dir: out
    max_steps: {{ steps }}

main: !call:ironloom.trainer:Trainer
    args: *args
"""
#: Each command that looks at a configuration, and the words it needs besides.
LOOKS = {
    "check": [],
    "explain": [],
    "show": [],
    "pp": [],
    "graph": [],
    "code": [],
    "targets": [],
    "templates": [],
    "construct": ["trainer_args"],
}


@pytest.fixture
def write(tmp_path):
    def write(text, name="my config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def groups(write):
    return write(GROUPS)


@pytest.fixture
def template(write):
    return write(TEMPLATE, "template.yaml")


@pytest.fixture
def project(tmp_path, write):
    folder = tmp_path / "project"
    write("name: Proof\ndescription: a project for tests\ndefault_config: b.yaml\n", "project/meta.yaml")
    write(GROUPS, "project/templates/configs/a.yaml")
    write(TEMPLATE, "project/templates/configs/b.yaml")
    return folder


# Every command.


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("ckpt", "generate", "model", "data")])
def test_every_command_has_an_example(ironloom, command):
    result = ironloom(command, "--help")
    assert result.code == 0
    assert f"Example: ironloom {command} " in result.out or command == "train"


@pytest.mark.parametrize("command", LOOKS)
@pytest.mark.parametrize("kind", ["groups", "template", "run"])
def test_every_command_takes_every_style(ironloom, write, groups, template, command, kind):
    path = {"groups": groups, "template": template}.get(kind) or write(ironloom("show", groups).out, "run.yaml")
    result = ironloom(command, path, *LOOKS[command])
    assert (result.code, result.err) == (0, "")
    assert result.out


@pytest.mark.parametrize("command", LOOKS)
def test_mistakes_have_exit_code_2_and_no_trace(ironloom, write, groups, command):
    wrong = [["missing.yaml"], [write("data: [", "broken.yaml")], [groups, "--nonsense"], [groups, "optim.=1"], []]
    if command not in ("pp", "templates"):  # these show what a file says, right or wrong
        wrong.append([groups, "optim.max_lrr=1"])
    for words in wrong:
        result = ironloom(command, *words)
        assert result.code == 2, words
        assert result.out == ""
        assert "Traceback" not in result.err
        assert result.err.startswith(("error: ", "Usage: ")), words


@pytest.mark.parametrize("command", [name for name in LOOKS if name not in ("check", "targets", "templates")])
def test_an_unknown_part_is_named_with_the_nearest(ironloom, groups, command):
    words = [groups, "trainer_argz"]
    result = ironloom(command, *words)
    assert result.code == 2
    assert "did you mean 'trainer_args'?" in result.err


@pytest.mark.parametrize("order", ["before", "between", "after"])
def test_overrides_stand_anywhere(ironloom, groups, order):
    words = {
        "before": ["operation.train_steps=7", groups, "trainer_args"],
        "between": [groups, "operation.train_steps=7", "trainer_args"],
        "after": [groups, "trainer_args", "operation.train_steps=7"],
    }[order]
    for command in ("show", "pp", "graph", "code", "construct"):
        assert "7" in ironloom(command, *words).out, command
        assert "max_steps" in ironloom(command, *words).out


@pytest.mark.parametrize("command", [*LOOKS, "diff", "ls", "schema", "migrate"])
def test_nothing_heavy_is_imported(command, groups, tmp_path):
    words = {"diff": [groups, groups], "ls": [str(tmp_path)], "schema": [], "migrate": [str(tmp_path / "args.json")]}
    (tmp_path / "args.json").write_text('{"max_steps": 5}')
    code = """
import sys
from ironloom.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"torch", "numpy", "transformers", "datasets", "accelerate", "rich", "jsonschema"} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-c", code, command, *words.get(command, [groups, *LOOKS.get(command, [])])]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["show", "explain", "graph", "schema"])
def test_a_reader_that_leaves_is_no_error(command, groups):
    words = [command] if command == "schema" else [command, groups]
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", "from ironloom.cli import main; main()", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 1


def test_an_ascii_terminal_shows_escapes(write, groups):
    path = write(GROUPS + "trainer: {model_name: \u00e9t\u00e9}\n", "accents.yaml")
    command = [sys.executable, "-c", "from ironloom.cli import main; main()", "show", path, "trainer_args"]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=60, env={"PYTHONIOENCODING": "ascii", "PATH": ""})
    assert b"output/\\xe9t\\xe9" in shown.stdout


# One by one.


def test_show_is_what_run_yaml_will_be(ironloom, write, groups):
    shown = ironloom("show", groups).out
    assert tagged.dump(tagged.load(shown, "run.yaml")) == shown
    assert ironloom("show", write(shown, "run.yaml")).out == shown


def test_show_of_one_target(ironloom, groups):
    assert ironloom("show", groups, "log_level").out.splitlines()[-1] == "log_level: INFO"


def test_show_as_a_tree_with_places(ironloom, groups):
    lines = ironloom("show", "--tree", groups).out.splitlines()
    assert next(line for line in lines if line.startswith("  max_steps: 5")).endswith(f"# {groups}:4:26")


def test_graph_in_every_format(ironloom, groups):
    assert ironloom("graph", groups).out.startswith("log_level: INFO\n")
    assert ironloom("graph", groups, "--format", "dot").out.startswith("digraph ")
    assert ironloom("graph", groups, "--format", "yaml").out == ironloom("show", groups).out
    compile(ironloom("graph", groups, "--format", "python").out, "generated.py", "exec")
    assert ironloom("graph", groups, "--format", "svg").code == 2


def test_code_of_the_run_and_of_a_target(ironloom, groups):
    assert "return Trainer(" in ironloom("code", groups).out
    space = {}
    exec(ironloom("code", groups, "--target", "trainer_args").out, space)
    assert space["construct"]().max_steps == 5
    assert ironloom("code", groups, "trainer_args").out == ironloom("code", groups, "--target", "trainer_args").out
    assert ironloom("code", groups, "main", "--target", "trainer_args").code == 2


def test_construct_builds_a_target(ironloom, groups):
    out = ironloom("construct", groups, "--target", "trainer_args").out
    assert out.startswith("TrainingArguments(")
    assert "max_steps=5" in out
    assert ironloom("construct", groups, "log_level").out == "'INFO'\n"


def test_construct_checks_first(ironloom, write):
    path = write("main: !call:ironloom.settings:TrainingArguments {max_stepz: 5}\n", "run.yaml")
    result = ironloom("construct", path)
    assert result.code == 2
    assert "did you mean 'max_steps'?" in result.err


def test_targets_one_to_a_line(ironloom, groups, template):
    assert ironloom("targets", groups).out.split() == [
        "log_level", "trainer_args", "data", "model", "optimizer", "lr_scheduler", "main", "test_dataset",
    ]  # fmt: skip
    assert ironloom("targets", template).out.split() == ["meta", "trainer_args", "main"]


def test_pp_of_a_template_is_its_text(ironloom, template):
    text = ironloom("pp", template).out
    assert "max_steps: 5\n" in text
    assert "-- set" not in text
    assert ironloom("pp", template, "trainer_args").out == (
        "trainer_args: &args !call:ironloom.settings:TrainingArguments\n    output_dir: out\n    max_steps: 5\n"
    )
    assert "max_steps: 8\n" in ironloom("pp", template, "steps=8").out


def test_pp_of_groups_is_what_is_merged(ironloom, write):
    write("{num_layers: 3, d_model: 32, d_ffn: 64, num_attention_heads: 2, head_dim: 16, tokenizer_type: byte}\n", "model/mini.yaml")
    path = write("model: {preset: mini, num_layers: 4}\ndata: {train_datasets: [python-docs]}\n")
    assert ironloom("pp", path, "model", "model.d_ffn=96").out.splitlines() == [
        "model:", "  num_layers: 4", "  d_model: 32", "  d_ffn: 96", "  num_attention_heads: 2", "  head_dim: 16", "  tokenizer_type: byte",
    ]  # fmt: skip
    assert "trainer_args: !call:ironloom.settings:TrainingArguments\n" in ironloom("pp", path, "trainer_args").out


def test_templates_lists_every_file_in_order(ironloom, write, tmp_path):
    write("-- block name\nname: base\n-- endblock\nmain: 1\n", "base.yaml")
    write("-- extends 'base.yaml'\n-- block name\nname: child\n-- include 'part.yaml'\n-- endblock\n", "child.yaml")
    write("part: 2\n", "part.yaml")
    lines = ironloom("templates", tmp_path / "child.yaml").out.splitlines()
    assert [line.split()[0] for line in lines] == ["child.yaml", "base.yaml", "part.yaml"]
    assert all(pathlib.Path(line.split(None, 1)[1]).is_file() for line in lines)


def test_templates_of_groups_are_presets(ironloom, groups):
    lines = ironloom("templates", groups, "model=gpt2-small").out.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["my config.yaml", "gpt2-small.yaml"]


def test_diff_says_what_differs_and_its_exit_code(ironloom, write, groups):
    other = write(GROUPS.replace("train_steps: 5", "train_steps: 6"), "other.yaml")
    same = ironloom("diff", groups, groups)
    assert (same.code, same.out, same.err) == (0, "", "")
    result = ironloom("diff", groups, other)
    assert result.code == 1
    assert result.out.splitlines() == [
        f"trainer_args.max_steps: 5 ({groups}:4:26) -> 6 ({other}:4:26)",
        f"lr_scheduler.total_steps: 5 ({groups}:4:26) -> 6 ({other}:4:26)",
    ]
    assert ironloom("diff", groups, other, "operation.train_steps=9").code == 0, "overrides hold for both"
    assert ironloom("diff", groups, other, "--target", "data").code == 0
    assert ironloom("diff", groups, other, "--target", "dat").code == 2
    assert ironloom("diff", groups).code == 2
    assert ironloom("diff", groups, "missing.yaml").code == 2


def test_diff_across_styles(ironloom, write, groups):
    run = write(ironloom("show", groups).out, "run.yaml")
    assert ironloom("diff", groups, run).code == 0
    program = ironloom("diff", run, write(pathlib.Path(run).read_text().replace("bf16: true", "bf16: false"), "b.yaml"))
    assert program.code == 1
    assert program.out.startswith("trainer_args.bf16: true (")


def test_explain_one_key_all_keys_and_json(ironloom, groups):
    assert ironloom("explain", groups, "operation.train_steps").out.splitlines()[:3] == [
        "trainer_args.max_steps = 5  (operation.train_steps)",
        "  default  1000",
        f"  file     5     {groups}:4:26",
    ]
    rows = ironloom("explain", groups).out.splitlines()
    assert len(rows) > 60
    told = json.loads(ironloom("explain", groups, "--json", "trainer_args.max_steps").out)
    assert told == [
        {
            "path": "trainer_args.max_steps",
            "keys": ["operation.train_steps"],
            "value": 5,
            "steps": [
                {"value": 1000, "route": "default", "source": "default", "line": None, "column": None},
                {"value": 5, "route": "file", "source": groups, "line": 4, "column": 26},
            ],
        }
    ]


def test_ls_of_a_folder_and_of_a_project(ironloom, tmp_path, groups, project):
    (tmp_path / "broken.yaml").write_text("data: [\n")
    lines = ironloom("ls", tmp_path).out.splitlines()
    assert lines[0].startswith("broken.yaml     PARSE ERROR: ")
    assert lines[1] == "my config.yaml  A run for tests."
    assert ironloom("ls", project).out.splitlines() == [
        "Proof: a project for tests",
        "  a.yaml    A run for tests.",
        "  [b.yaml]  Small: a template for tests",
    ]
    assert "Proof: a project for tests" in ironloom("ls", "-r", tmp_path).out
    assert ironloom("ls", "nowhere").code == 2


def test_ls_does_not_execute_python(ironloom, project):
    (project / "templates/configs/c.py").write_text('"""A run in code.\n\nMore."""\nraise SystemExit("executed")\n')
    (project / "templates/configs/d.py").write_text("def (\n")
    out = ironloom("ls", project).out
    assert "  c.py      A run in code.\n" in out
    assert "  d.py      PARSE ERROR: " in out


def test_schema_is_json(ironloom):
    assert json.loads(ironloom("schema").out)["properties"]["optim"]
    assert json.loads(ironloom("schema", "run").out)["required"] == ["main"]
    assert "!var scalar" in json.loads(ironloom("schema", "tags").out)
    assert ironloom("schema", "everything").code == 2


def test_migrate_prints_a_configuration(ironloom, write):
    path = write('{"max_steps": 5, "fsdp": "full_shard"}', "args.json")
    out = ironloom("migrate", path).out
    assert "  train_steps: 5\n" in out
    assert "#   fsdp: full_shard: there is no key of this meaning\n" in out
    assert ironloom("migrate", "missing.json").code == 2


# Options before the command, and the other name of the program.


def test_the_configuration_may_stand_before_the_command(ironloom, template):
    expected = ironloom("pp", template, "trainer_args").out
    assert expected
    for words in (["-t", template], ["--config-template", template], [f"--config-template={template}"]):
        assert ironloom(*words, "pp", "trainer_args").out == expected


def test_a_project_may_stand_before_the_command(ironloom, project):
    assert ironloom("-p", project, "targets").out.split() == ["meta", "trainer_args", "main"], "its default"
    assert "data" in ironloom("-p", project, "-t", "a.yaml", "targets").out
    assert "data" in ironloom("-t", "a", "-p", project, "targets").out
    assert ironloom("-p", project, "ls").out.startswith("Proof: ")
    result = ironloom("-p", project, "-t", "c.yaml", "targets")
    assert result.code == 2
    assert "c.yaml" in result.err


def test_a_configuration_alone_is_trained(ironloom, groups):
    assert ironloom(groups, "optim.max_lrr=1").err.startswith("error: command line: optim.max_lrr")
    assert ironloom("missing.yaml").err.startswith("error: missing.yaml: there is no such file")


def test_wrong_use_of_the_options_before_the_command(ironloom, template):
    assert ironloom("-t").err == "error: the option -t needs a value\n"
    assert "schema takes no configuration" in ironloom("-t", template, "schema").err
    assert "did you mean 'pp'" in ironloom("-t", template, "ppp").err
    assert ironloom("-t", template).out.startswith("Usage: ")


def test_the_program_has_two_names():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ironloom": "ironloom.cli:main", "fgcli.py": "ironloom.cli:main"}


def test_check_for_more_processes(capsys, tmp_path, monkeypatch):
    """The arithmetic of the batch is that of the run that is meant."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: {train_datasets: [python-docs]}\ntrainer: {micro_batch_size: 2, gradient_accumulation_steps: 2, train_batch_size: 8}\n"
        "model: {tokenizer_type: byte}\n"
    )
    for processes, code in ((2, 0), (3, 2)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["check", str(file), "--nproc", str(processes)])
        assert ended.value.code == code
    assert "data-parallel size 3" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(file)])
    assert ended.value.code == 2
