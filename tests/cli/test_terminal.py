"""What is shown in a terminal, and what is not let into it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from cli.commands import IRONLOOM, Place
from ironloom.callbacks import ProgressCallback, TrainerControl, TrainerState
from ironloom.cli import summary
from ironloom.settings import TrainingArguments

# The tests share runs: one process of a distributed test run takes them all.
pytestmark = pytest.mark.xdist_group("end-to-end")


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
