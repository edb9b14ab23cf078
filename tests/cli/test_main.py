"""The commands, their exit codes and messages."""

import subprocess
import sys

import pytest

import ironloom as package
from ironloom import cli
from ironloom.errors import ConfigError, DataError, Interrupted, Problem, RankError, ResourceError

MODULE = """
import sys
from ironloom import errors

def command(kind: str = "none") -> None:
    \"\"\"Fail in some way.\"\"\"
    if kind == "interrupt":
        raise errors.Interrupted(15, "stopped after step 7")
    if kind == "fault":
        raise KeyError("a fault of the program")
    if kind == "note":
        error = errors.DataError("the corpus is empty")
        error.add_note("while calling x:y for main.train_dataset")
        raise error
    if kind != "none":
        raise getattr(errors, kind)("what happened")
    print("done")
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A command ``fail`` that fails as it is told."""
    (tmp_path / "failing_command.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("failing_command:command", "Fail."))
    yield
    sys.modules.pop("failing_command", None)


def test_the_version(ironloom):
    assert ironloom("--version").out == f"ironloom {package.__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_every_command(ironloom, words):
    result = ironloom(*words)
    assert result.code == 0
    for name, (_, line) in cli.COMMANDS.items():
        assert name in result.out
        assert line[:30] in result.out


def test_help_imports_no_command_and_nothing_heavy():
    code = """
import sys
from ironloom.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "numpy", "pydantic", "yaml", "ironloom.cli.train", "ironloom.cli.ckpt"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["train", "check", "ckpt"])
def test_every_command_has_help(ironloom, command):
    result = ironloom(command, "--help")
    assert result.code == 0
    assert "Usage: ironloom" in result.out
    assert "Example" in result.out or "Commands" in result.out


def test_a_misspelt_command_is_suggested(ironloom):
    result = ironloom("chekc", "x.yaml")
    assert (result.code, result.err) == (2, "error: there is no command 'chekc' (did you mean 'check'?)\n")


def test_wrong_options_are_usage_errors(ironloom, tmp_path):
    (tmp_path / "x.yaml").write_text("data: {train_datasets: [python-docs]}")
    result = ironloom("check", "--nonsense", "x.yaml")
    assert result.code == 2
    assert "--nonsense" in result.err


@pytest.mark.parametrize(
    ("kind", "code"), [("ConfigError", 2), ("DataError", 3), ("CheckpointError", 3), ("ResourceError", 4), ("RankError", 5)]
)
def test_every_kind_of_failure_has_its_exit_code_and_no_trace(ironloom, failing, kind, code):
    result = ironloom("fail", "--kind", kind)
    assert (result.code, result.err, result.out) == (code, "error: what happened\n", "")


def test_an_orderly_stop_has_the_exit_code_of_its_signal(ironloom, failing):
    result = ironloom("fail", "--kind", "interrupt")
    assert (result.code, result.err) == (143, "error: stopped after step 7\n")


def test_notes_are_shown(ironloom, failing):
    assert ironloom("fail", "--kind", "note").err == "error: the corpus is empty\n  while calling x:y for main.train_dataset\n"


@pytest.mark.parametrize("words", [["--traceback", "fail", "--kind", "DataError"], ["fail", "--kind", "DataError", "--traceback"]])
def test_the_trace_is_there_on_request(failing, words):
    with pytest.raises(DataError):
        cli.main(words)


def test_a_fault_of_the_program_keeps_its_trace(failing):
    with pytest.raises(KeyError, match="a fault of the program"):
        cli.main(["fail", "--kind", "fault"])


def test_a_fault_of_the_program_exits_with_1(tmp_path):
    code = "import ironloom.cli as cli; cli.COMMANDS['fail'] = ('failing_command:command', ''); cli.main(['fail', '--kind', 'fault'])"
    (tmp_path / "failing_command.py").write_text(MODULE)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'a fault of the program'" in result.stderr


def test_all_problems_of_a_configuration_are_printed(capsys):
    error = ConfigError([Problem("one", "a.b"), Problem("two", hint="try c")])
    assert cli.report(error) == 2
    assert capsys.readouterr().err == "error: a.b: one\nerror: two (try c)\n"
    assert [cli.report(kind("x")) for kind in (DataError, ResourceError, RankError)] == [3, 4, 5]
    assert cli.report(Interrupted(2, "x")) == 130


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"]])
def test_a_reader_that_leaves_is_no_error(words):
    command = [sys.executable, "-u", "-c", "from ironloom.cli import main; main()", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 1
