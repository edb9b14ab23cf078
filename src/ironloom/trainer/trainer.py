"""The trainer: the public face of the loop and of the engines of one process or several."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ironloom.checkpoint.lock import RunLock
from ironloom.checkpoint.manifest import FileEntry
from ironloom.data.mixture import Mixture
from ironloom.device import hold_deterministic, peak_memory
from ironloom.errors import ConfigError, Interrupted
from ironloom.settings.dream.device import DeviceParameters
from ironloom.trainer.base_trainer import check_not_empty
from ironloom.trainer.engine import NativeEngine
from ironloom.trainer.evaluating import EvaluatingTrainer, named
from ironloom.trainer.loop import TrainLoop
from ironloom.trainer.optimization import check_optimizer, check_scheduler, new_optimizer, new_scheduler
from ironloom.trainer.plan import StepPlan, plan_steps
from ironloom.trainer.progress import Progress
from ironloom.trainer.signals import StopSignals
from ironloom.trainer.snapshot import Snapshot, check_storable, read_weights
from ironloom.trainer.types import EvalPrediction, TrainOutput

logger = logging.getLogger("ironloom")


class Trainer(EvaluatingTrainer):
    """Trains, in one process or in as many as a launcher started.

    Takes the arguments of :class:`EvaluatingTrainer` and:

    Args:
        optimizer_factory: Called with the named parameters (callable and iterable); returns an optimizer.
        optimizer_cls_and_kwargs: Instead: an optimizer class and its keyword arguments.
        lr_scheduler_factory: Called with the optimizer; returns a scheduler.
        optimizers: Instead of all these: an optimizer and a scheduler, either may be None.
    """

    def __init__(
        self,
        *args: Any,
        optimizer_factory: Callable[..., torch.optim.Optimizer] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        lr_scheduler_factory: Callable[..., Any] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, Any], torch.Tensor] | None = None,
        device_parameters: DeviceParameters | None = None,
        **kwargs: Any,
    ):
        given = [optimizer_factory, optimizer_cls_and_kwargs, optimizers[0]]
        if sum(option is not None for option in given) > 1:
            raise ConfigError("give one of optimizer_factory, optimizer_cls_and_kwargs and optimizers")
        self.optimizer_factory = optimizer_factory
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.lr_scheduler_factory = lr_scheduler_factory
        self._given_optimizers = optimizers
        super().__init__(
            *args,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            device_parameters=device_parameters,
            **kwargs,
        )
        self._progress = Progress()
        self._trained = False
        self.emit("on_init_end")

    # Training

    def train(self, resume_from_checkpoint: bool | str | Path | None = None, **kwargs: Any) -> TrainOutput:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: Overrides the argument of that name.
            **kwargs: None are known; taken so that a misspelt one is named.

        Returns:
            Steps done, mean loss over the run, metrics.

        Raises:
            ConfigError: If what is asked for does not fit the data or the model.
            DataError: If the data cannot be used, or the loss is not finite (``nonfinite_policy``).
            ResourceError: If another run holds the output folder, or it cannot be written.
            Interrupted: After SIGINT or SIGTERM, when the step is finished and saved.
        """
        if kwargs:
            raise TypeError(f"train() got unknown arguments: {', '.join(kwargs)}")
        if resume_from_checkpoint is not None:
            self.args.resume_from_checkpoint = resume_from_checkpoint
        self._check_data()
        if self.args.save_strategy != "no":
            check_storable(self.model, self.callback_handler)
        with self._run_lock(), StopSignals() as signals, hold_deterministic(self.args.deterministic):
            try:
                return self._train(signals)
            except Interrupted:
                self.emit("on_train_end")
                raise
            except BaseException:
                self.callback_handler.close()
                raise
            finally:
                self.saving.leave()  # before another run may have the folder

    @contextlib.contextmanager
    def _run_lock(self) -> Iterator[None]:
        """One process holds the output folder for all."""
        lock = RunLock(self.args.output_dir)
        with contextlib.ExitStack() as stack:

            def take() -> None:
                stack.enter_context(lock)

            self.team.on_first(take)
            yield

    def _train(self, signals: StopSignals) -> TrainOutput:
        start = time.perf_counter()
        if self._trained and self.model_init is not None:
            self.model, self._engine = self._new_model(), None
        self._trained = True
        self.train_dataloader = self._loader(self.train_dataset, training=True)
        plan = self._plan(self.train_dataloader)
        self._new_state(plan)
        engine = self._prepared_engine(self.train_dataloader)
        self._create_optimizer_and_scheduler(engine, plan)
        if isinstance(self.train_dataset, Mixture) and self.team.is_first:
            logger.info("training data: %s", self.train_dataset.described())
        if not self._resume(plan) and self.args.eval_on_start:
            self.control.should_evaluate = True
        if self.eval_dataset is not None:
            self.eval_dataloader = self._eval_loader(named(self.eval_dataset)[0][1])
        steps_before, tokens_before = self.state.global_step, self.state.num_input_tokens_seen
        engine.model.train()
        self.emit("on_train_begin", validation_losses=self._validation_losses)
        TrainLoop(self, engine, self.train_dataloader, plan, self._progress, signals).run()
        self.saving.settle()
        if self.args.load_best_model_at_end:
            self._load_best()
        metrics = self._speed(time.perf_counter() - start, steps_before, tokens_before)
        if self.state.global_step > steps_before:
            self.log(metrics)
        self.emit("on_train_end")
        return TrainOutput(self.state.global_step, self._progress.training_loss, metrics)

    def _check_data(self) -> None:
        if self.train_dataset is None:
            raise ConfigError("train() needs a train_dataset")
        check_not_empty(self.train_dataset, "train_dataset")
        if self.args.eval_strategy != "no" or self.args.eval_on_start:
            if self.eval_dataset is None:
                raise ConfigError(f"eval_strategy is {self.args.eval_strategy!r} but there is no eval_dataset")
            for name, dataset in named(self.eval_dataset):
                check_not_empty(dataset, f"eval_dataset {name}".rstrip())

    def _plan(self, loader: Any) -> StepPlan:
        try:
            batches: int | None = len(loader)
        except TypeError:
            batches = None
        return plan_steps(batches, self.args.gradient_accumulation_steps, self.args.num_train_epochs, self.args.max_steps)

    def _new_state(self, plan: StepPlan) -> None:
        args, fresh = self.args, type(self.state)()
        fresh.max_steps, fresh.num_train_epochs = plan.max_steps, plan.num_epochs
        fresh.logging_steps, fresh.eval_steps, fresh.save_steps = args.logging_steps, args.eval_steps, args.save_steps
        fresh.train_batch_size = args.train_batch_size
        self.state, self.control, self._progress = fresh, type(self.control)(), Progress()
        self._progress.num_samples = self.train_dataloader.num_samples
        if isinstance(self.train_dataset, Mixture):
            self._progress.mixture = self.train_dataset.proportions
        self._tell_place()

    def _create_optimizer_and_scheduler(self, engine: NativeEngine, plan: StepPlan) -> None:
        given = self._given_optimizers
        self.optimizer = given[0] or new_optimizer(self.model, self.args, self.optimizer_factory, self.optimizer_cls_and_kwargs)
        check_optimizer(self.optimizer, self.model)
        self.lr_scheduler = given[1] or new_scheduler(self.optimizer, self.args, self.lr_scheduler_factory, plan.max_steps)
        check_scheduler(self.lr_scheduler, self.args)
        engine.set_optimizer(self.optimizer, self.lr_scheduler)

    def _check_parts(self) -> None:
        super()._check_parts()
        if self._given_optimizers[0] is not None:
            raise ConfigError(
                "an optimizer that was made of the whole model cannot train its stages: "
                "give optimizer_factory or optimizer_cls_and_kwargs, which are called in each process with its own parameters"
            )

    def _speed(self, seconds: float, steps_before: int, tokens_before: int) -> dict[str, float]:
        steps = self.state.global_step - steps_before
        samples = steps * self.args.train_batch_size * self.team.place.data_size * self.args.gradient_accumulation_steps
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": samples / seconds,
            "train_steps_per_second": steps / seconds,
            "train_tokens_per_second": (self.state.num_input_tokens_seen - tokens_before) / seconds,
            "train_loss": self._progress.training_loss,
        }
        if self.args.report_memory:
            metrics["peak_memory_mib"] = peak_memory(self.device) / 2**20
        return metrics

    # Checkpoints

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self.unwrapped_model(),
            self._prepared_engine(self.train_dataloader),
            self.state,
            self.control,
            self._progress,
            self.callback_handler,
            self.args,
            self.processing_class,
        )

    def _write_checkpoint(self, folder: Path) -> dict[str, FileEntry]:
        return self._snapshot().write(folder)

    def _save_together(self, step: int, info: dict[str, Any]) -> Path:
        from ironloom.checkpoint.shared_folder import SharedFolder

        snapshot, peers = self._snapshot(), self.team.peers
        return SharedFolder(self.checkpoints, peers).save(step, lambda: snapshot.parts(peers), info, snapshot.extras)

    def _resume(self, plan: StepPlan) -> bool:
        """Take up a checkpoint, if one is asked for and there."""

        def find() -> str | None:
            self.checkpoints.clean()
            return self._resolve_checkpoint_path()

        path = self.team.on_first(find)
        if path is None:
            return False
        samples_here, mixture_here = self._progress.num_samples, self._progress.mixture
        self._snapshot().read(Path(path), self.warn, self.team.peers)
        samples_there, self._progress.num_samples = self._progress.num_samples, samples_here
        mixture_there, self._progress.mixture = self._progress.mixture, mixture_here
        if mixture_here != mixture_there:
            self.warn(
                f"the training data is mixed in another way ({mixture_here or 'not at all'}) than when {path} was saved "
                f"({mixture_there or 'not at all'}): it goes on in the new one, in which some samples come again before all have come"
            )
        elif samples_here != samples_there:
            self.warn(
                f"the training data has {samples_here} samples, it had {samples_there} when {path} was saved: "
                "the order of the rest of this epoch is another one, and some samples come twice or not at all"
            )
        self.control.should_training_stop = False
        self.state.max_steps, self.state.num_train_epochs = plan.max_steps, plan.num_epochs
        self.state.logging_steps, self.state.eval_steps = self.args.logging_steps, self.args.eval_steps
        self.state.save_steps = self.args.save_steps
        per_step = self.train_dataloader.global_batch_size
        if self._progress.samples % per_step and self._progress.samples != getattr(self.train_dataloader, "num_samples", None):
            raise ConfigError(
                f"{path} stands at sample {self._progress.samples} of its epoch, which is no multiple of the batch of {per_step}: "
                "go on with the batch size of the run that saved it"
            )
        return True

    def _load_best(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not self.team.on_first(lambda: self._validate_checkpoint(best)):
            self.warn(f"the best checkpoint ({best}) is not there or damaged: the model keeps the weights of the last step")
            return
        read_weights(Path(best), self.unwrapped_model(), self.team.peers)

    def evaluate_in_training(self, stop: Callable[[], bool]) -> bool:
        """Evaluate at a boundary of the loop, rank the result, and advance schedules that wait for one.

        Returns:
            False if ``stop`` ended the evaluation before its result.
        """
        metrics = self._evaluate(None, "eval", stop)
        if metrics is None:
            return False
        if self.args.load_best_model_at_end or self.args.metric_for_best_model:
            self._rank(metrics)
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(self._ranking(metrics))
        return True

    def _rank(self, metrics: dict[str, float]) -> None:
        """Remember a new best; with ``load_best_model_at_end`` it is saved at this very step."""
        value, best = self._ranking(metrics), self.state.best_metric
        better = value == value and (best is None or (value > best if self.args.best_metric_grows else value < best))
        if not better:
            return
        self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        if self.args.load_best_model_at_end:
            self.control.should_save = True
        if self.control.should_save:
            self.best_checkpoint_before = self.state.best_model_checkpoint
            self.state.best_model_checkpoint = str(self.checkpoints.path(self.state.global_step))

    def _ranking(self, metrics: dict[str, float]) -> float:
        """The metric that ranks checkpoints and that schedules wait for."""
        name = self.args.best_metric_name
        if name not in metrics:
            raise ConfigError(f"metric_for_best_model: an evaluation gives no {name!r}; it gives {', '.join(sorted(metrics))}")
        return metrics[name]
