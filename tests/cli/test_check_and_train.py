"""``check`` and ``train`` on files: what they print, write and build."""

import pathlib
import textwrap

import pytest

from ironloom import config
from ironloom.cli import configuration
from ironloom.config import tagged
from ironloom.errors import ConfigError

GROUPS = """\
data: {train_datasets: [python-docs]}
model: {tokenizer_type: bbpe, vocab_name_or_path: null, d_model: 32, d_ffn: 64, head_dim: 16, num_attention_heads: 2}
operation: {train_steps: 5}
"""
TRAINER = """
import json, pathlib
from ironloom.settings import TrainingArguments

class Recorder:
    \"\"\"A trainer that writes down how it was built.\"\"\"

    def __init__(self, args: TrainingArguments, label="x"):
        self.args, self.label = args, label

    def train(self):
        folder = pathlib.Path(self.args.output_dir)
        seen = {"label": self.label, "resume": self.args.resume_from_checkpoint, "run": (folder / "run.yaml").exists()}
        (folder / "trained.json").write_text(json.dumps(seen))

    def save_model(self):
        pathlib.Path(self.args.output_dir, "saved").touch()
"""
RUN = """\
main: !call:recording:Recorder
  args: !call:ironloom.settings:TrainingArguments
    output_dir: out put
    resume_from_checkpoint: true
  label: first
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="my config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def recording(tmp_path, monkeypatch):
    (tmp_path / "recording.py").write_text(TRAINER)
    monkeypatch.syspath_prepend(tmp_path)

    import sys

    from ironloom.config.static import modules

    modules.find_module.cache_clear()
    yield
    modules.find_module.cache_clear()
    sys.modules.pop("recording", None)


def test_check_says_ok_and_what_it_amounts_to(ironloom, write):
    path = write(GROUPS)
    result = ironloom("check", path, "data.vocab_size=1000")
    assert (result.code, result.err) == (0, "")
    first, second = result.out.splitlines()
    assert first == f"{path}: ok"
    assert second.endswith(" parameters (vocabulary of 1,000), 1,024 tokens per step, 5 steps")


def test_check_prints_every_mistake_and_exits_with_2(ironloom, write):
    path = write(GROUPS + "optim: {max_lrr: 1}\ntrainer: {log_interval: 0}\n")
    result = ironloom("check", "init.sede=1", path)
    assert result.code == 2
    assert result.out == ""
    assert result.err.splitlines() == [
        f"error: {path}:4:9: optim.max_lrr: unknown key (did you mean 'max_lr'?)",
        f"error: {path}:5:25: trainer.log_interval: expected a number of at least 1, found 0",
        "error: command line: init.sede: unknown key (did you mean 'seed'?)",
    ]


@pytest.mark.parametrize("order", ["before", "between", "after"])
def test_overrides_stand_anywhere(ironloom, write, order):
    path = write(GROUPS)
    overrides = ["operation.train_steps=6", "trainer.train_batch_size=4"]
    words = {"before": [*overrides, path], "between": [overrides[0], path, overrides[1]], "after": [path, *overrides]}[order]
    assert ironloom("check", *words).out.endswith("2,048 tokens per step, 6 steps\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.b=1"], "which configuration?"),
        (["a.yaml", "b.yaml"], "one configuration at a time, found 'a.yaml', 'b.yaml'"),
        (["missing.yaml"], "missing.yaml: there is no such file"),
    ],
)
def test_files_that_are_not_there(ironloom, words, expected):
    result = ironloom("check", *words)
    assert result.code == 2
    assert expected in result.err


def test_a_file_called_like_an_override(ironloom, write):
    write(GROUPS, "lr=3.yaml")
    assert ironloom("check", "lr=3.yaml").out.startswith("lr=3.yaml: ok\n")
    assert ironloom("check", write(GROUPS, "lr=3/run.yaml")).code == 0


def test_train_writes_the_run_before_it_trains(ironloom, write, recording):
    result = ironloom("train", write(RUN), "main.label=second")
    assert (result.code, result.err) == (0, "")
    folder = pathlib.Path("out put")
    assert sorted(entry.name for entry in folder.iterdir()) == ["run.yaml", "saved", "trained.json"]
    assert (folder / "trained.json").read_text() == '{"label": "second", "resume": true, "run": true}'
    assert config.load(folder / "run.yaml").root["main"].kwargs["label"] == "second"


def test_training_the_written_run_repeats_it(ironloom, write, recording):
    ironloom("train", write(RUN), "main.label=second")
    file = pathlib.Path("out put/run.yaml")
    before = file.read_bytes()
    (file.parent / "trained.json").unlink()
    assert ironloom("train", file).code == 0
    assert '"label": "second"' in (file.parent / "trained.json").read_text()
    assert file.read_bytes() == before


def test_fresh_does_not_resume_and_is_not_part_of_the_run(ironloom, write, recording):
    assert ironloom("train", "--fresh", write(RUN)).code == 0
    assert '"resume": false' in pathlib.Path("out put/trained.json").read_text()
    assert config.load("out put/run.yaml").root["main"].kwargs["args"].kwargs["resume_from_checkpoint"] is True


def test_a_wrong_configuration_writes_nothing(ironloom, write, recording):
    result = ironloom("train", write(RUN), "main.lable=1")
    assert result.code == 2
    assert "main.lable: unknown key of recording:Recorder (did you mean 'label'?)" in result.err
    assert not pathlib.Path("out put").exists()


def test_only_the_first_process_writes_the_run(ironloom, write, recording, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    pathlib.Path("out put").mkdir()
    assert ironloom("train", write(RUN)).code == 0
    assert not pathlib.Path("out put/run.yaml").exists()


def test_a_folder_that_cannot_be_made_is_a_resource_error(ironloom, write, recording):
    pathlib.Path("out put").write_text("a file")
    result = ironloom("train", write(RUN))
    assert result.code == 4
    assert result.err.startswith("error: cannot write out put/run.yaml: ")


def test_a_run_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    graph = tagged.load(RUN, "f")
    file = configuration.write_run(graph, tmp_path / "run")
    before = file.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(configuration.ResourceError, match="No space left"):
        configuration.write_run(graph, tmp_path / "run")
    assert file.read_text() == before
    assert [entry.name for entry in file.parent.iterdir()] == ["run.yaml"]


def test_the_output_folder_of_any_graph():
    assert configuration.output_dir(tagged.load(RUN, "f")) == pathlib.Path("out put")
    assert configuration.output_dir(tagged.load("main: !call:a:b {args: {output_dir: x}}", "f")) == pathlib.Path("x")
    assert configuration.output_dir(tagged.load("main: !call:a:b {}", "f")) == pathlib.Path("tmp_trainer")


def test_split_needs_exactly_one_file():
    assert configuration.split(["a=1", "x y.yaml", "b.c=2"]) == ("x y.yaml", ["a=1", "b.c=2"], {}, [])
    with pytest.raises(ConfigError, match="which configuration"):
        configuration.split([])
