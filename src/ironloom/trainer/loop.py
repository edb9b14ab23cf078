"""The one training loop.

It fetches micro-batches, lets the engine turn them into optimizer steps, keeps the counts, fires
the events and acts on the control flags. It knows no parallelism, no objective and no file format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ironloom.callbacks.state import TrainerControl
from ironloom.device import generator_states, restore_generators
from ironloom.errors import DataError, Interrupted, IronloomError, NonFiniteError
from ironloom.objectives.base import batch_size
from ironloom.trainer.engine import Batch, NativeEngine
from ironloom.trainer.plan import StepPlan
from ironloom.trainer.probe import probe
from ironloom.trainer.progress import Progress
from ironloom.trainer.signals import StopSignals

if TYPE_CHECKING:
    from ironloom.trainer.trainer import Trainer


class TrainLoop:
    """One call of ``train()``.

    Args:
        trainer: Owner of state, control, callbacks, evaluation and saving.
        engine: Does the arithmetic.
        loader: Gives the micro-batches of an epoch from any position on.
        plan: How long to go on.
        progress: Where to start.
        signals: Tells when the user wants to stop.
    """

    def __init__(self, trainer: Trainer, engine: NativeEngine, loader: Any, plan: StepPlan, progress: Progress, signals: StopSignals):
        self.trainer, self.engine, self.loader, self.plan = trainer, engine, loader, plan
        self.progress, self.signals = progress, signals
        self.args = trainer.args
        self.samples_per_batch = loader.global_batch_size
        self.samples_per_epoch = _samples_per_epoch(loader, plan)
        self.grad_norm: float | None = None
        self.learning_rate = 0.0
        self.team = trainer.team
        self._agreed_signal: int | None = None
        self._is_writing = False

    def run(self) -> None:
        """Train until ``max_steps`` or until control says stop.

        Raises:
            Interrupted: After SIGINT or SIGTERM, once the step is finished and saved.
            NonFiniteError: With policy ``stop``; the weights before that step are saved.
        """
        state = self.trainer.state
        self.trainer.at_step = state.global_step
        self._agree()
        self._stop_if_asked()
        if self.progress.boundary_open:
            self._act()
        while state.global_step < state.max_steps and not self.trainer.control.should_training_stop:
            self._epoch()
        if self.progress.epoch_open and state.global_step >= state.max_steps:
            # Resumed after the last step, whose epoch was not brought to its end.
            self._end_epoch(self.progress.samples >= self.samples_per_epoch)

    def _epoch(self) -> None:
        if not self.progress.epoch_open:
            self.trainer.control.should_epoch_stop = False
            self.progress.epoch_open = True
        self.trainer.emit("on_epoch_begin")
        batches = self.loader.iterate(self.progress.epoch, math.ceil(self.progress.samples / self.samples_per_batch))
        # Closed at once: workers that an exception's traceback keeps alive would hold up the end of the process.
        with contextlib.closing(batches):
            try:
                finished = self._steps(batches)
            except IronloomError as error:
                self._save_before(error)
                raise
        self._end_epoch(finished)

    def _end_epoch(self, finished: bool) -> None:
        self.progress.epoch_open = False
        if finished:
            self.progress.count_sources(self.loader.sources)
            self.progress.next_epoch()
            self.trainer.state.epoch = float(self.progress.epoch)
        # As in transformers the event also fires when training stops within the epoch.
        self._set_flags("epoch")
        self.trainer.emit("on_epoch_end")
        self._act()

    def _steps(self, batches: Iterator[Batch]) -> bool:
        """Steps to the end of the epoch; False if training stops within it."""
        state = self.trainer.state
        if self.progress.samples and self.trainer.control.should_epoch_stop:  # resumed where the epoch was to be left
            return True
        while window := self._fetch(batches):
            self._step(window)
            control = self.trainer.control
            if control.should_training_stop or state.global_step >= state.max_steps:
                return self.progress.samples >= self.samples_per_epoch
            if control.should_epoch_stop:
                return True
        if self.progress.samples == 0:
            raise DataError(f"the training data gave no sample in epoch {self.progress.epoch}")
        return True

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        self.trainer.at_step = self.trainer.state.global_step + 1
        self._phase("data")
        return list(itertools.islice(batches, self.args.gradient_accumulation_steps))

    def _step(self, window: Sequence[Batch]) -> None:
        trainer, engine, state = self.trainer, self.engine, self.trainer.state
        self._phase("forward")
        trainer.emit("on_step_begin")
        weight = engine.weight(window)
        if engine.meets_documents:
            probe(engine, window, self.team, trainer.warn)
        key = ("step", self.args.seed, state.global_step)
        loss_sum = engine.forward_backward(window, weight, key, self._substep)
        weight = engine.counted(weight)
        self._phase("optimizer")
        self.learning_rate = engine.learning_rate()
        want_norm = self.args.grad_norm_log_interval is not None and self._flag_due(self.args.grad_norm_log_interval)
        self.grad_norm = engine.clip(self.args.max_grad_norm, want_norm)
        is_applied = self._is_finite(loss_sum)
        if is_applied:
            self._before_optimizer()
            if engine.step():
                trainer.emit("on_optimizer_step")
                engine.schedule()
            self.progress.add(loss_sum, weight)
        else:
            engine.skip()
            self.progress.skipped_steps += 1
            self.progress.window_steps += 1
        engine.zero_grad()
        self._count(window, is_applied)
        self._set_flags("steps")
        trainer.emit("on_step_end")
        self._act()

    def _before_optimizer(self) -> None:
        """The event between gradients and update; an optimizer that draws must not see what a callback drew."""
        if self.trainer.callback_handler.handles("on_pre_optimizer_step"):
            states = generator_states()
            self.trainer.emit("on_pre_optimizer_step")
            restore_generators(states)

    def _substep(self) -> None:
        self._phase("forward")
        self.trainer.emit("on_substep_end")

    def _count(self, window: Sequence[Batch], is_applied: bool) -> None:
        state, progress = self.trainer.state, self.progress
        state.global_step += 1
        state.num_target_tokens_seen += self.engine.num_targets
        tokens, *sums = self.team.sum([sum(self._tokens(batch) for batch in window if batch is not None), *self.engine.take_sums()])
        if is_applied:
            progress.report(dict(zip(self.engine.reports, sums, strict=True)))
        state.num_input_tokens_seen += int(tokens)
        progress.samples = int(min(progress.samples + len(window) * self.samples_per_batch, self.samples_per_epoch))
        micro_batches = math.ceil(progress.samples / self.samples_per_batch)
        state.epoch = self.plan.epoch_at(progress.epoch, micro_batches, self.args.gradient_accumulation_steps)

    def _tokens(self, batch: Batch) -> int:
        """Input tokens of a batch, or its samples where there are no tokens."""
        if self.args.include_num_input_tokens_seen == "non_padding" and "attention_mask" in batch and batch["attention_mask"].ndim == 2:
            return int(batch["attention_mask"].sum())
        tokens = batch.get("input_ids")
        return tokens.numel() if isinstance(tokens, torch.Tensor) else batch_size(batch)

    def _is_finite(self, loss_sum: float) -> bool:
        """Whether this step may be applied; raises where the policy is to stop."""
        # A loss scaler finds and skips overflowing gradients itself.
        norm_is_finite = self.grad_norm is None or math.isfinite(self.grad_norm) or self.engine.scaler is not None
        if math.isfinite(loss_sum) and norm_is_finite:
            return True
        what = "gradient norm" if math.isfinite(loss_sum) else "loss"
        value = self.grad_norm if math.isfinite(loss_sum) else loss_sum
        message = (
            f"the {what} of step {self.trainer.state.global_step + 1} is {value} "
            f"(epoch {self.progress.epoch}, samples from position {self.progress.samples}, "
            f"learning rate {self.learning_rate:g})"
        )
        if self.args.nonfinite_policy == "stop":
            raise NonFiniteError(
                f"{message}; the weights are those of step {self.trainer.state.global_step}. "
                "Lower the learning rate, look at these samples, or set nonfinite_policy to skip such steps"
            )
        self.trainer.warn(f"{message}: the step is skipped")
        return False

    def _flag_due(self, cadence: str) -> bool:
        """Whether the step that is running will be logged, or saved."""
        upcoming = self.trainer.state.global_step + 1
        every = self.args.logging_steps if cadence == "log" else self.args.save_steps
        return upcoming % every == 0 or upcoming == self.trainer.state.max_steps

    def _set_flags(self, boundary: str) -> None:
        """What the strategies ask for at the end of a step or an epoch."""
        args, control, state = self.args, self.trainer.control, self.trainer.state
        step, last = state.global_step, state.global_step >= state.max_steps
        if boundary == "epoch":
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            return
        if (args.logging_strategy == "steps" and (step % state.logging_steps == 0 or last)) or (step == 1 and args.logging_first_step):
            control.should_log = True
        if args.eval_strategy == "steps" and (step % state.eval_steps == 0 or last):
            control.should_evaluate = True
        if args.save_strategy == "steps" and (step % state.save_steps == 0 or last):
            control.should_save = True
        if args.exit_steps and step % args.exit_steps == 0:
            control.should_training_stop = True
            control.should_save |= args.save_strategy != "no"

    def _act(self) -> None:
        """Act on the flags: log, evaluate, save. A stop signal saves and raises."""
        self._agree()
        self.progress.boundary_open = True
        if self.trainer.control.should_log:
            self.trainer.control.should_log = False
            self._phase("log")
            self._log()
        self._stop_if_asked()
        if self.trainer.control.should_evaluate:
            self._phase("evaluate")
            self._evaluate()
            self._agree()
            self._stop_if_asked()
        self.progress.boundary_open = False
        if self.trainer.control.should_save:
            self.trainer.control.should_save = False
            self._phase("save")
            if self.args.grad_norm_log_interval == "checkpoint" or self.args.param_norm_log_interval == "checkpoint":
                self.trainer.log(self._norms("checkpoint"))
            self.trainer.save_in_training()
        elif not self._is_writing:
            self.trainer.saving.settle()

    def _phase(self, name: str) -> None:
        # The end of an epoch shows when data for the next step are asked for: the number never goes back.
        self.trainer.phase(name, self.trainer.at_step)

    def _evaluate(self) -> None:
        """Evaluate; what does not come to its end is still asked for. A callback may ask for another one."""
        done = False
        self.trainer.control.should_evaluate = False
        try:
            done = self.trainer.evaluate_in_training(self._stop_wanted)
        finally:
            if not done:
                self.trainer.control.should_evaluate = True

    def _log(self) -> None:
        logs: dict[str, float] = {}
        reported, loss = self.progress.take_reported(), self.progress.take_window()
        if loss is not None:
            logs |= {"loss": loss, **reported}
        self.progress.count_sources(self.loader.sources)
        logs |= self.progress.sources()
        logs |= self._norms("log")
        logs["learning_rate"] = self.learning_rate
        if self.progress.skipped_steps:
            logs["skipped_steps"] = self.progress.skipped_steps
        self.trainer.log(logs)

    def _norms(self, cadence: str) -> dict[str, float]:
        """The norms that belong into a record made at a log or at a checkpoint."""
        norms = {}
        # Without a cadence of its own the gradient norm is logged wherever clipping has computed it.
        if self.grad_norm is not None and (self.args.grad_norm_log_interval or "log") == cadence:
            norms["grad_norm"] = self.grad_norm
        if self.args.param_norm_log_interval == cadence:
            norms["param_norm"] = self.engine.parameter_norm()
        return norms

    def _stop_wanted(self) -> bool:
        return self.team.any([self.signals.received is not None])[0]

    def _agree(self) -> None:
        """What one process was asked for, by a callback or a signal, is asked of all."""
        if self.team.is_alone:
            self._is_writing = self.trainer.saving.is_writing()
            return
        control, signums = self.trainer.control, (signal.SIGINT, signal.SIGTERM)
        flags = [field.name for field in dataclasses.fields(TrainerControl)]
        wishes = [bool(getattr(control, name)) for name in flags] + [self.signals.received == signum for signum in signums]
        *agreed, self._is_writing = self.team.any([*wishes, self.trainer.saving.is_writing()])
        for name, wish in zip(flags, agreed, strict=False):
            setattr(control, name, wish)
        self._agreed_signal = next((signum for signum, wish in zip(signums, agreed[len(flags) :], strict=True) if wish), None)

    def _stop_if_asked(self) -> None:
        """On a signal save what is there, with the pending flags, and leave."""
        signum = self.signals.received if self.team.is_alone else self._agreed_signal
        if signum is None:
            return
        self.trainer.saving.settle()
        name, step = signal.Signals(signum).name, self.trainer.state.global_step
        saved = "nothing was saved, because save_strategy is 'no'"
        if self.args.save_strategy != "no":
            self.trainer.control.should_save = False
            path = self.trainer.save_in_training(at_once=True)
            saved = f"saved {path}" if path else "the checkpoint could not be saved"
        raise Interrupted(signum, f"stopped by {name} after step {step}: {saved}")

    def _save_before(self, error: IronloomError) -> None:
        """Keep the last whole step when data or numbers end the run; its state is untouched by the failed one.

        Of several processes one alone may have met the error, and none can save alone: only what all of them
        know, a number that is not finite, is followed by a save.
        """
        if not self.team.is_alone and not isinstance(error, NonFiniteError):
            return
        if self.args.save_strategy != "no" and self.trainer.state.global_step and isinstance(error, ValueError):
            self.engine.zero_grad()
            if not self.engine.is_finite():
                error.add_note("the weights are not finite any more and are not saved: go on from an earlier checkpoint")
                return
            path = self.trainer.save_in_training(at_once=True)
            if path:
                error.add_note(f"step {self.trainer.state.global_step} is saved in {path}")


def _samples_per_epoch(loader: Any, plan: StepPlan) -> float:
    """Samples that the batches of an epoch hold, over all ranks; infinite if the data has no length."""
    if plan.steps_per_epoch is None:
        return math.inf
    samples: int = min(len(loader) * loader.global_batch_size, loader.num_samples)
    return samples
