"""Profiles of a few steps, by PyTorch's profiler or for Nsight Systems. Training goes on after them."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironloom.callbacks.base import TrainerCallback
from ironloom.callbacks.records import log_folder
from ironloom.callbacks.state import TrainerControl, TrainerState
from ironloom.errors import ConfigError, Problem
from ironloom.settings.training import TrainingArguments

logger = logging.getLogger("ironloom")


class _Window(TrainerCallback):
    """Something that is on from the beginning of a step to the end of another one, on some ranks."""

    def __init__(self, step_start: int, step_end: int, ranks: Sequence[int]):
        problems = []
        if step_start < 1:
            problems.append(Problem(f"steps are counted from 1, found {step_start}", path="step_start"))
        if step_end < step_start:
            problems.append(Problem(f"{step_end} is before step_start {step_start}", path="step_end"))
        if not ranks or min(ranks) < 0:
            problems.append(Problem(f"expected numbers of processes from 0, found {list(ranks)}", path="ranks"))
        if problems:
            raise ConfigError(problems)
        self.step_start, self.step_end, self.ranks = step_start, step_end, tuple(ranks)
        self._rank = 0
        self._first: int | None = None
        self._last = 0

    @abstractmethod
    def _start(self) -> None:
        """The window opens."""

    @abstractmethod
    def _stop(self, first: int, last: int) -> None:
        """The window closes after steps ``first`` to ``last``."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See whether the window will be reached."""
        self._rank = int(os.environ.get("RANK", "0"))
        self._first = None
        if self.step_start > state.max_steps:
            logger.warning("no step is profiled: the profile begins at step %d, the run ends at %d", self.step_start, state.max_steps)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the window before its first step, or within it if the run starts there."""
        step = state.global_step + 1
        if self._first is None and self.step_start <= step <= self.step_end and self._rank in self.ranks:
            self._first = self._last = step
            self._start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close it after its last."""
        self._last = state.global_step
        if state.global_step >= self.step_end:
            self.close()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close it if training ends within."""
        self.close()

    def close(self) -> None:
        """Close the window, in whichever way training ends."""
        if self._first is not None:
            first, self._first = self._first, None
            self._stop(first, self._last)


class ProfileCallback(_Window):
    """Profiles a window of steps with ``torch.profiler`` and goes on.

    ``LOGS/profile/rank0-steps10-12.pt.trace.json`` is read by Perfetto, ``chrome://tracing`` and
    TensorBoard; the table beside it (``.txt``) lists the operations by their own time.

    Args:
        step_start: First optimizer step of the profile, from 1.
        step_end: Last one.
        ranks: Processes that profile.
        output_dir: Folder of the traces; None: ``profile`` in the run's folder of logs.
        record_shapes: Note the shapes of operands.
        profile_memory: Note allocations.
        with_stack: Note the lines of source.

    Raises:
        ConfigError: For a window that has no step.
    """

    def __init__(
        self,
        step_start: int = 10,
        step_end: int = 12,
        ranks: Sequence[int] = (0,),
        output_dir: str | os.PathLike[str] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
    ):
        super().__init__(step_start, step_end, ranks)
        self._output_dir = output_dir
        self._record_shapes, self._profile_memory, self._with_stack = record_shapes, profile_memory, with_stack
        self._folder = Path()
        self._profiler: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide where traces go."""
        super().on_train_begin(args, state, control, **kwargs)
        self._folder = log_folder(args) / "profile" if self._output_dir is None else Path(self._output_dir)

    def _start(self) -> None:
        from torch import profiler

        self._profiler = profiler.profile(
            activities=profiler.supported_activities(),  # type: ignore[no-untyped-call]
            record_shapes=self._record_shapes,
            profile_memory=self._profile_memory,
            with_stack=self._with_stack,
        )
        self._profiler.start()

    def _stop(self, first: int, last: int) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        name = f"rank{self._rank}-steps{first}-{last}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self._folder / f"{name}.pt.trace.json"))
            table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
            (self._folder / f"{name}.txt").write_text(table, encoding="utf-8")
        except (OSError, RuntimeError) as error:  # what a full disk is to Kineto
            logger.warning("the profile could not be written to %s: %s", self._folder, error)
            return
        logger.info("steps %d to %d are profiled in %s", first, last, self._folder / name)


class NsightCallback(_Window):
    """Lets Nsight Systems see a window of steps: ``nsys profile --capture-range=cudaProfilerApi ...``.

    Each step and each operation has a range of its own.

    Args:
        step_start: First optimizer step of the profile, from 1.
        step_end: Last one.
        ranks: Processes that profile.

    Raises:
        ConfigError: For a window that has no step, and when training begins without a CUDA device.
    """

    def __init__(self, step_start: int = 10, step_end: int = 12, ranks: Sequence[int] = (0,)):
        super().__init__(step_start, step_end, ranks)
        self._ranges: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See that there is something to profile."""
        import torch

        super().on_train_begin(args, state, control, **kwargs)
        if not torch.cuda.is_available() or args.use_cpu:
            raise ConfigError("Nsight Systems profiles CUDA, and this run has no CUDA device: use PyTorch's profiler instead")

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the range of a step."""
        import torch

        super().on_step_begin(args, state, control, **kwargs)
        if self._first is not None:
            torch.cuda.nvtx.range_push(f"step {state.global_step + 1}")  # type: ignore[no-untyped-call]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End it."""
        import torch

        if self._first is not None:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
        super().on_step_end(args, state, control, **kwargs)

    def _start(self) -> None:
        import torch

        torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
        self._ranges = torch.autograd.profiler.emit_nvtx()  # type: ignore[no-untyped-call]
        self._ranges.__enter__()

    def _stop(self, first: int, last: int) -> None:
        import torch

        self._ranges.__exit__(None, None, None)
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]
        logger.info("Nsight Systems has seen steps %d to %d", first, last)
