"""``ironloom ckpt``: what is there, and whether it is good."""

import json
import re
import resource
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from ironloom.checkpoint.folder import CheckpointFolder
from ironloom.checkpoint.manifest import MANIFEST
from ironloom.cli.ckpt import app


@pytest.fixture
def run(tmp_path):
    """The output folder of a run: step 1 good, 2 flipped, 3 best, 4 without a manifest."""
    output_dir = tmp_path / "a run \u2603"
    folder = CheckpointFolder(output_dir / "checkpoints")
    for step in (1, 2, 3, 4):
        folder.save(step, lambda staging: (staging / "data.json").write_text("x" * 2048) and None, {"best": step == 3})
    data = folder.path(2) / "data.json"
    data.write_text("y" + data.read_text()[1:])
    (folder.path(4) / MANIFEST).unlink()
    return output_dir


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_ls_shows_one_line_each(run):
    code, output, _ = call("ls", run)
    lines = {line.split("\t")[0]: line.split("\t") for line in output.splitlines()}
    assert code == 0
    assert list(lines) == ["4", "1", "2", "3"]
    assert lines["3"][2:] == ["2.0 kB", "complete", "best"]
    assert lines["1"][1].startswith(time.strftime("%Y-"))
    assert lines["4"][3].startswith("damaged: manifest.json: missing")


def test_ls_as_json(run):
    rows = json.loads(call("ls", run / "checkpoints", "--json")[1])
    assert [(row["step"], row["complete"], row["best"]) for row in rows] == [
        (4, False, False), (1, True, False), (2, True, False), (3, True, True),
    ]  # fmt: skip
    assert rows[1]["size"] == 2048


def test_verify_names_the_damage_and_ends_with_3(run):
    code, output, _ = call("verify", run)
    lines = output.splitlines()
    assert code == 3
    assert len(lines) == 4
    assert "checkpoint-2: damaged: data.json: content differs" in output
    assert "checkpoint-4: damaged: manifest.json: missing" in output
    assert "checkpoint-3: good, 2,048 bytes" in output


@pytest.mark.parametrize(("step", "code"), [(1, 0), (2, 3), (3, 0), (4, 3)])
def test_verify_one_checkpoint(run, step, code):
    found, output, _ = call("verify", run / "checkpoints" / f"checkpoint-{step}")
    assert found == code
    assert len(output.splitlines()) == 1


def test_a_copied_checkpoint_of_another_name_is_verified(run):
    path = (run / "checkpoints" / "checkpoint-1").rename(run / "kept")
    assert call("verify", path)[0] == 0
    assert call("ls", path)[1].startswith("1\t")


@pytest.mark.parametrize("command", ["ls", "verify"])
def test_nothing_there_ends_with_2(tmp_path, command):
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no checkpoints")):
        code, _, error = call(command, path)
        assert code == 2
        assert words in error


PROGRAM = """
import sys
from ironloom.cli.ckpt import app
sys.argv = ["ckpt", *sys.argv[1:]]
try:
    app()
finally:
    assert not {"torch", "numpy", "transformers"} & set(sys.modules), "a heavy import"
"""


def test_commands_answer_without_torch_and_at_once(run):
    """Time of the processor, not of the clock: it is the same when other work goes on beside."""
    for arguments in (["--help"], ["ls", str(run)], ["verify", str(run / "checkpoints" / "checkpoint-1")]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert seconds < 0.4, f"{arguments} took {seconds:.2f} s"


def test_a_table_on_a_terminal(run, monkeypatch, capsys):
    from ironloom.cli import ckpt

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ckpt.ls(run)
    output = capsys.readouterr().out
    assert re.sub(r"\x1b\[[0-9;]*m", "", output).split("\n")[0].split() == ["step", "time", "size", "state"]
    assert "best" in output


def test_long_work_shows_a_bar(run, monkeypatch, capsys):
    from ironloom.cli import ckpt

    monkeypatch.setattr(ckpt, "_SHOW_PROGRESS_FROM", 1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ckpt.verify(run / "checkpoints" / "checkpoint-1")
    assert "verifying" in capsys.readouterr().err
