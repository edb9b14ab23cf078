"""The command line as a user has it: real processes, a tiny model, a corpus in a file, no network."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from ironloom.callbacks import ProgressCallback, TrainerControl, TrainerState
from ironloom.cli import summary
from ironloom.settings import TrainingArguments

# The tests share runs: one process of a distributed test run takes them all.
pytestmark = pytest.mark.xdist_group("end-to-end")

IRONLOOM = str(Path(sys.executable).with_name("ironloom"))
STEPS = 300
CONFIG = f"""\
model:
  {{d_model: 16, d_ffn: 32, num_layers: 1, num_attention_heads: 2, head_dim: 8, max_seq_len: 16,
   tokenizer_type: bbpe, vocab_name_or_path: null, precision: float32}}
data: {{train_datasets: [corpus.txt], splits: [0.8, 0.1, 0.1], vocab_size: 300}}
optim: {{max_lr: 1e-2}}
trainer:
  {{model_path: out, micro_batch_size: 2, gradient_accumulation_steps: 2, num_workers: 0, log_interval: 10,
   save_checkpoint_steps: 100, do_eval: true, vocab_padding_unit: 1}}
operation: {{train_steps: {STEPS}, eval_interval: 100, eval_samples: 4, test_samples: 4}}
"""
# Python imports a module of this name when it starts: whatever asks for the network fails and is noted.
NO_NETWORK = """\
import pathlib, socket

def refuse(*args, **kwargs):
    with open(pathlib.Path(__file__).with_name("attempts.txt"), "a") as file:
        file.write(f"{args}\\n")
    raise OSError("these tests have no network")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


@dataclass
class Place:
    """A folder with a configuration and a corpus, and the environment of the commands run there."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``ironloom`` to its end. It never shows a stack trace."""
        result = subprocess.run(
            [IRONLOOM, *words], cwd=self.folder, env=self.environment, input=stdin, capture_output=True, text=True, timeout=100
        )
        assert "Traceback" not in result.stderr + result.stdout, result.stderr
        return result

    def train(self, output: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Train into a folder; must succeed."""
        result = self.run("train", "tiny.yaml", f"trainer.model_path={output}", *words)
        assert result.returncode == 0, result.stderr
        return result

    def copy(self, output: str, name: str) -> Path:
        """A copy of an output folder under another name."""
        return shutil.copytree(self.folder / output, self.folder / name)

    def metrics(self, output: str) -> list[dict[str, Any]]:
        """What was recorded of a run, without what depends on the clock and the machine."""
        lines = (self.folder / output / "logs" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        measured = re.compile(r"_runtime$|_per_second$|^peak_memory")
        return [
            {key: value for key, value in record.items() if not measured.search(key)} for record in records if "train_runtime" not in record
        ]

    def weights(self, output: str) -> bytes:
        """The trained weights, bit for bit."""
        return (self.folder / output / "model.safetensors").read_bytes()

    def attempts(self) -> str:
        """What was asked of the network."""
        file = self.folder / "guard" / "attempts.txt"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("a folder with spaces")
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "corpus.txt").write_text("".join(text for _, text in sorted(topics.items()))[:60_000])
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "COLUMNS")}
    environment |= {
        "IRONLOOM_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder / "guard"),
    }
    return Place(folder, environment)


@pytest.fixture(scope="module")
def finished(place: Place) -> subprocess.CompletedProcess[str]:
    """The run that nothing disturbs; its output folder is ``out``."""
    return place.train("out")


class Started:
    """A training process under way."""

    def __init__(self, place: Place, output: str):
        self.log = place.folder / f"{output}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [IRONLOOM, "train", "tiny.yaml", f"trainer.model_path={output}"],
                cwd=place.folder,
                env=place.environment,
                stdout=log,
                stderr=log,
            )

    def wait_for(self, text: str) -> None:
        """Wait until the run has shown ``text``."""
        end = time.monotonic() + 60
        while text not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.005)

    def end(self) -> str:
        """Wait for the end; returns all that was shown."""
        self.process.wait(60)
        return self.log.read_text()


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_what_a_run_leaves(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    out = place.folder / "out"
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    state = {"manifest.json", "optimizer.json", "optimizer.safetensors", "run.yaml", "scheduler.json", "trainer_state.json"}
    checkpoints = {f"checkpoints/checkpoint-{step}/{name}" for step in (200, 300) for name in model | state}
    assert files == model | {"run.yaml", "logs/metrics.jsonl", ".ironloom.lock"} | checkpoints
    assert (out / "checkpoints/checkpoint-300/run.yaml").read_bytes() == (out / "run.yaml").read_bytes()
    assert (out / "checkpoints/checkpoint-300/model.safetensors").read_bytes() == place.weights("out")


def test_what_a_run_shows(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    """Without a terminal: plain lines on the error stream, the summary and generated lines on the output."""
    assert "\x1b" not in finished.stdout + finished.stderr
    lines = finished.stderr.splitlines()
    assert lines[0] == "there is no checkpoint in out/checkpoints to go on from: training starts fresh"
    for step in range(10, STEPS + 1, 10):
        pattern = rf"step {step}/{STEPS}  loss \d\.\d{{4}}  grad norm [\d.]+  lr [\de.-]+  [\d,]+ tokens/s"
        assert sum(re.fullmatch(pattern, line) is not None for line in lines) == 1, step
    assert [line.split()[1] for line in lines if "  eval_loss " in line] == ["0/300", "100/300", "200/300", "300/300"]
    assert re.fullmatch(r"step 300/300  test_loss [\d.]+", lines[-1])
    table = dict(re.findall(r"│ (\w[\w ]*?) +│ (.*?) +│", finished.stdout))
    assert list(table) == [
        *(
            "steps",
            "epochs",
            "tokens",
            "training loss",
            "evaluation loss",
            "perplexity",
            "test loss",
            "time",
            "speed",
            "peak memory",
            "model",
        )
    ]
    assert (table["steps"], table["tokens"], table["model"]) == ("300 of 300", f"{STEPS * 4 * 16:,}", "out")
    first, last = (float(number) for number in table["perplexity"].split(" -> "))
    assert last < first / 4
    generated = finished.stdout.split("┘\n")[1].splitlines()
    assert len(generated) == 3
    assert all(" | " in line for line in generated)
    assert all(character.isprintable() for line in generated for character in line)


def test_every_step_is_recorded_once(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    records = place.metrics("out")
    assert [record["step"] for record in records if "loss" in record] == list(range(10, STEPS + 1, 10))
    assert [record["step"] for record in records if "eval_loss" in record] == [0, 100, 200, 300]
    assert [record["step"] for record in records if "test_loss" in record] == [300]


def test_nothing_was_asked_of_the_network(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    assert place.attempts() == ""
    asked = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('localhost', 9))"], env=place.environment, capture_output=True
    )
    assert b"these tests have no network" in asked.stderr
    assert place.attempts() != ""
    (place.folder / "guard" / "attempts.txt").unlink()


def test_training_the_written_run_repeats_it_bit_for_bit(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    result = place.run("train", "out/run.yaml", "trainer_args.output_dir=the same again")
    assert result.returncode == 0, result.stderr
    assert place.metrics("the same again") == place.metrics("out")
    assert place.weights("the same again") == place.weights("out")


def test_a_finished_run_trains_nothing_more_and_says_so(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    place.copy("out", "finished")
    before = place.metrics("finished")
    checkpoints = sorted((place.folder / "finished/checkpoints").rglob("*"))
    times = [file.stat().st_mtime_ns for file in checkpoints]
    result = place.train("finished")
    assert "finished is already at step 300: no step was trained (--fresh begins anew)" in result.stdout
    assert "loss" not in result.stderr.replace("test_loss", "")
    assert place.metrics("finished") == before
    assert place.weights("finished") == place.weights("out")
    assert [file.stat().st_mtime_ns for file in checkpoints] == times


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(signum: signal.Signals, place: Place, finished: Any) -> None:
    output = f"stopped by {signum.name}"
    run = Started(place, output)
    run.wait_for("step 150/300")
    run.process.send_signal(signum)
    shown = run.end()
    if signum == signal.SIGKILL:
        assert run.process.returncode == -signum
    else:
        assert run.process.returncode == 128 + signum
        stop = re.search(rf"error: stopped by {signum.name} after step (\d+): saved {output}/checkpoints/checkpoint-\1\n", shown)
        assert stop and 150 <= int(stop[1]) < STEPS, shown
    assert "Traceback" not in shown
    place.train(output)
    assert place.metrics(output) == place.metrics("out")
    assert place.weights(output) == place.weights("out")


def test_a_second_run_in_the_same_folder_is_refused_and_changes_nothing(place: Place) -> None:
    run = Started(place, "taken")
    run.wait_for("step 10/300")
    run.process.send_signal(signal.SIGSTOP)
    before = (place.folder / "taken/run.yaml").read_bytes()
    try:
        second = place.run("train", "tiny.yaml", "trainer.model_path=taken", "operation.train_steps=7")
        assert (second.returncode, second.stdout) == (4, "")
        assert re.fullmatch(rf"error: taken is in use by another run \(process {run.process.pid} on .*\)\. Wait for it.*\n", second.stderr)
        assert (place.folder / "taken/run.yaml").read_bytes() == before
    finally:
        run.process.kill()
        run.process.wait()


def test_generate_from_the_run_and_from_a_checkpoint(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    words = ("--prompt", "The import statement", "--max-new-tokens", "20", "--temperature", "1.5")
    here = place.run("generate", "out", *words, "--seed", "1")
    assert here.returncode == 0, here.stderr
    assert here.stdout.startswith("The import statement")
    assert len(here.stdout) > len("The import statement\n")
    assert place.run("generate", "out/checkpoints/checkpoint-300", *words, "--seed", "1").stdout == here.stdout
    assert place.run("generate", "out", *words, "--seed", "2").stdout != here.stdout


def test_generate_reads_standard_input(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    result = place.run("generate", "out", "--max-new-tokens", "3", stdin="class\n")
    assert (result.returncode, result.stdout[:5]) == (0, "class")
    empty = place.run("generate", "out", stdin="")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr == "error: an empty prompt: give --prompt TEXT, or text on standard input\n"


def test_checkpoints_are_listed_and_verified(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    listed = place.run("ckpt", "ls", "out")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["200", "300"]
    assert [line.split("\t")[3] for line in listed.stdout.splitlines()] == ["complete", "complete"]
    verified = place.run("ckpt", "verify", "out")
    assert (verified.returncode, verified.stdout.count(": good, ")) == (0, 2)
    copy = place.copy("out", "to be damaged")
    flip(copy / "checkpoints/checkpoint-200/optimizer.safetensors")
    damaged = place.run("ckpt", "verify", "to be damaged")
    assert damaged.returncode == 3
    assert (
        "checkpoint-200: damaged: optimizer.safetensors: content differs from what was saved (wrong hash)" in damaged.stdout.splitlines()[0]
    )
    assert "checkpoint-300: good" in damaged.stdout.splitlines()[1]


def test_a_damaged_newest_checkpoint_is_passed_over(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    copy = place.copy("out", "damaged")
    flip(copy / "checkpoints/checkpoint-300/model.safetensors")
    (copy / "model.safetensors").unlink()
    result = place.train("damaged")
    assert "checkpoint-300 is damaged and passed over: model.safetensors: content differs" in result.stderr
    assert f"step 210/{STEPS}  loss" in result.stderr
    assert f"step 200/{STEPS}  loss" not in result.stderr
    assert place.metrics("damaged") == place.metrics("out")
    assert place.weights("damaged") == place.weights("out")


def test_fresh_begins_anew(place: Place, finished: subprocess.CompletedProcess[str]) -> None:
    place.copy("out", "fresh")
    result = place.train("fresh", "--fresh", "operation.train_steps=10", "optim.annealing_steps=300")
    assert f"step 10/10  loss {place.metrics('out')[1]['loss']:.4f}" in result.stderr
    assert [record["step"] for record in place.metrics("fresh") if "loss" in record] == [10]
    kept = place.folder / "fresh" / "checkpoints.1"
    assert sorted(path.name for path in kept.iterdir()) == sorted(path.name for path in (place.folder / "out/checkpoints").iterdir())
    assert "kept in fresh/checkpoints.1" in result.stderr


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: no such file or folder"),
        ("empty.txt", b"", "empty.txt: the file is empty"),
        ("blank.jsonl", b'{"text": ""}\n', "blank.jsonl: no text in it"),
        ("short.txt", b"too short", "training data: \\d+ tokens are less than one sequence: 17 are needed"),
        ("latin.txt", b"line\ncaf\xe9 au lait\n", "latin.txt:2: not UTF-8: byte 0xe9"),
        ("somebody/something", None, "somebody/something: no file or folder of this name is here, and .* hub .*cannot be opened"),
    ],
)
def test_data_that_cannot_be_used(source: str, content: bytes | None, message: str, place: Place) -> None:
    if content is not None:
        (place.folder / source).write_bytes(content)
    result = place.run("train", "tiny.yaml", f"data.train_datasets=[{source}]", "trainer.model_path=refused", "model.tokenizer_type=byte")
    assert (result.returncode, result.stdout) == (3, "")
    assert re.match(f"error: {message}", result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tiny.yaml", "optim.max_lrr=1e-3"), "error: command line: optim.max_lrr: unknown key (did you mean 'max_lr'?)\n"),
        (
            ("tiny.yaml", "trainer.log_interval=often"),
            "error: command line: trainer.log_interval: expected a whole number, found 'often'\n",
        ),
        (("tinny.yaml",), "error: tinny.yaml: there is no such file (did you mean 'tiny.yaml'?)\n"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_written(words: tuple[str, ...], message: str, place: Place) -> None:
    result = place.run("train", *words, "trainer.model_path=never")
    assert (result.returncode, result.stderr, result.stdout) == (2, message, "")
    assert not (place.folder / "never").exists()


def test_generated_bytes_cannot_steer_the_terminal() -> None:
    assert summary.one_line("a\x1b[2J b\r\n\tc\x07") == "a\N{REPLACEMENT CHARACTER}[2J b c\N{REPLACEMENT CHARACTER}"


def test_every_line_of_progress_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    progress, args, state, control = ProgressCallback(), TrainingArguments(), TrainerState(global_step=3, max_steps=9), TrainerControl()
    for logs in ({"test_loss": 1.5}, {"param_norm": 2.0}, {"epoch": 1.0}):
        progress.on_log(args, state, control, logs=logs)
    assert capsys.readouterr().err.splitlines() == ["step 3/9  test_loss 1.5", "step 3/9  param norm 2"]


class Terminal:
    """A process in a pseudo terminal of its own, 80 columns wide."""

    def __init__(self, place: Place, *words: str):
        self.shown = ""
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [IRONLOOM, *words], cwd=place.folder, env={**place.environment, "TERM": "xterm"}, preexec_fn=lambda: os.login_tty(slave)
        )
        os.close(slave)

    def read_until(self, pattern: str) -> bool:
        """Read what is shown until it matches; False if the process ends before it does."""
        end = time.monotonic() + 60
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown
            if not select.select([self.master], [], [], 1)[0]:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux says so when the last process has closed the terminal
                return False
            self.shown += data.decode(errors="replace")
        return True

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def close(self) -> None:
        """End the process if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(place: Place) -> Iterator[Terminal]:
    overrides = ("operation.train_steps=1000000", "operation.eval_interval=1000000", "trainer.save_checkpoint_steps=1000000")
    terminal = Terminal(
        *(place, "train", "tiny.yaml", "data.train_datasets=[python-docs]", "model.tokenizer_type=byte", "trainer.model_path=seen"),
        *overrides,
    )
    yield terminal
    terminal.close()


def test_a_terminal_shows_a_bar_and_ctrl_c_gives_it_back(terminal: Terminal) -> None:
    bar = r"step \d+/1000000 \S*━\S* loss \d\.\d{4}  lr [\de.-]+  [\d,]+ tokens/s \S*\d+:\d\d:\d\d"
    assert terminal.read_until(bar), terminal.shown
    assert "step 0/1000000  eval_loss" in terminal.shown
    terminal.type("\x03")
    terminal.read_until(r"\A\Z")  # to the end
    assert terminal.process.wait(60) == 130
    assert re.search(r"error: stopped by SIGINT after step (\d+): saved seen/checkpoints/checkpoint-\1\r\n", terminal.shown)
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l"), "the cursor is visible again"
    assert "Traceback" not in terminal.shown
