"""What the user sees while a run trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.settings.training import TrainingArguments

#: Seconds between two drawings of the bar. Drawing costs about a millisecond.
REFRESH_SECONDS = 0.5


class ProgressCallback(TrainerCallback):
    """Step, loss, learning rate, tokens per second and time left.

    In a terminal a bar is drawn at most twice a second, from the training thread; elsewhere each
    log record and evaluation is a line.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._drawn = 0.0
        self._since: tuple[float, int] = (0.0, 0)
        self._tokens_per_second = 0.0
        self._last: dict[str, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the bar where the run starts."""
        self._since = (time.perf_counter(), state.num_input_tokens_seen)
        if not state.is_local_process_zero or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task("train", total=state.max_steps, completed=state.global_step, shown="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw, if it is time."""
        if self._bar is None:
            return
        now = time.perf_counter()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._measure(now, state)
            self._bar.update(self._task, completed=state.global_step, shown=self._shown(), refresh=True)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any) -> None:
        """Show a log record."""
        if not state.is_local_process_zero or "train_runtime" in logs:
            return
        self._last.update({key: logs[key] for key in ("loss", "learning_rate") if key in logs})
        if "loss" in logs:
            self._measure(time.perf_counter(), state)
        line = _line(logs, self._tokens_per_second)
        if line and (self._bar is None or any(key.startswith("eval_") for key in logs)):
            self._say(f"step {state.global_step}/{state.max_steps}  {line}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw the last state and leave the bar standing."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, shown=self._shown(), refresh=True)
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _measure(self, now: float, state: TrainerState) -> None:
        seconds, tokens = now - self._since[0], state.num_input_tokens_seen - self._since[1]
        if seconds > 0 and tokens > 0:
            self._tokens_per_second = tokens / seconds
        self._since = (now, state.num_input_tokens_seen)

    def _shown(self) -> str:
        return _line(self._last, self._tokens_per_second)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _line(logs: dict[str, Any], tokens_per_second: float) -> str:
    """A record in one line: what matters, in a fixed order."""
    shown = [f"{key} {logs[key]:.4g}" for key in sorted(logs) if key.endswith(("_loss", "_perplexity", "rewards/accuracies"))]
    if "loss" in logs:
        shown.append(f"loss {logs['loss']:.4f}")
    if "grad_norm" in logs:
        shown.append(f"grad norm {logs['grad_norm']:.3g}")
    if "param_norm" in logs:
        shown.append(f"param norm {logs['param_norm']:.4g}")
    if "learning_rate" in logs:
        shown.append(f"lr {logs['learning_rate']:.3g}")
    if tokens_per_second and "loss" in logs:
        shown.append(f"{tokens_per_second:,.0f} tokens/s")
    return "  ".join(shown)
