"""Training from the command line as a user has it: what a run leaves and shows, interruptions, damage, refusals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from cli.commands import IRONLOOM, STEPS, Place, flip

# The tests share runs: one process of a distributed test run takes them all.
pytestmark = pytest.mark.xdist_group("end-to-end")


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
