"""The trainer of one process: the public face of the loop and the native engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ironloom.checkpoint.lock import RunLock
from ironloom.checkpoint.weights import load_weights
from ironloom.device import hold_deterministic, peak_memory
from ironloom.errors import ConfigError, Interrupted
from ironloom.objectives import choose_objective
from ironloom.optim import AdamW, NamedParameters, schedule_by_name
from ironloom.optim.parameters import decay_groups, is_norm_or_bias
from ironloom.trainer.base_trainer import BaseTrainer, check_not_empty
from ironloom.trainer.engine import NativeEngine, placed
from ironloom.trainer.evaluation import evaluate, joined
from ironloom.trainer.loaders import build_loader
from ironloom.trainer.loop import TrainLoop
from ironloom.trainer.plan import StepPlan, plan_steps
from ironloom.trainer.progress import Progress
from ironloom.trainer.signals import StopSignals
from ironloom.trainer.snapshot import Snapshot, check_storable
from ironloom.trainer.types import EvalPrediction, PredictionOutput, TrainOutput


@runtime_checkable
class Scheduler(Protocol):
    """The least that a learning-rate schedule can do."""

    def step(self) -> None:
        """Advance by one optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""


class Trainer(BaseTrainer):
    """Trains on one device.

    Takes the arguments of :class:`BaseTrainer` and:

    Args:
        optimizer_factory: Called with the named parameters (callable and iterable); returns an optimizer.
        optimizer_cls_and_kwargs: Instead: an optimizer class and its keyword arguments.
        lr_scheduler_factory: Called with the optimizer; returns a scheduler.
        optimizers: Instead of all these: an optimizer and a scheduler, either may be None.
        compute_loss_func: ``f(outputs, labels, num_items_in_batch)``, divided by ``num_items_in_batch``.
        compute_metrics: ``f(EvalPrediction)`` -> further metrics of an evaluation.
        preprocess_logits_for_metrics: ``f(logits, labels)`` -> what is kept of the logits for it.
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
        **kwargs: Any,
    ):
        given = [optimizer_factory, optimizer_cls_and_kwargs, optimizers[0]]
        if sum(option is not None for option in given) > 1:
            raise ConfigError("give one of optimizer_factory, optimizer_cls_and_kwargs and optimizers")
        self.optimizer_factory = optimizer_factory
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.lr_scheduler_factory = lr_scheduler_factory
        self._given_optimizers = optimizers
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        super().__init__(*args, **kwargs)
        self._engine: NativeEngine | None = None
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
        with RunLock(self.args.output_dir), StopSignals() as signals, hold_deterministic(self.args.deterministic):
            try:
                return self._train(signals)
            except Interrupted:
                self.emit("on_train_end")
                raise
            except BaseException:
                self.callback_handler.close()
                raise

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
        if not self._resume(plan) and self.args.eval_on_start:
            self.control.should_evaluate = True
        if self.eval_dataset is not None:
            self.eval_dataloader = self._eval_loader(_named(self.eval_dataset)[0][1])
        steps_before, tokens_before = self.state.global_step, self.state.num_input_tokens_seen
        engine.model.train()
        self.emit("on_train_begin")
        TrainLoop(self, engine, self.train_dataloader, plan, self._progress, signals).run()
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
            for name, dataset in _named(self.eval_dataset):
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

    def _prepared_engine(self, loader: Any) -> NativeEngine:
        """The engine of the model; ``loader`` gives a batch to try if the kind of the model's loss is not known."""
        if self._engine is None or self._engine.model is not self.model:
            self._check_precision()
            self.model.to(self.device)
            self._engine = NativeEngine(self.model, self._objective(loader), self.args, self.device)
        return self._engine

    def _check_precision(self) -> None:
        if any(parameter.is_meta for parameter in self.model.parameters()):
            raise ConfigError("the model is on the meta device and has no weights: materialize it (to_empty) and initialise it first")
        half = {parameter.dtype for parameter in self.model.parameters()} & {torch.float16, torch.bfloat16}
        if self.args.fp16 and half:
            raise ConfigError("fp16 needs float32 master weights: load the model with dtype=torch.float32")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The mean loss over a batch. Override it for a loss of your own; the trainer then weighs it by the batch's targets.

        Args:
            model: Called with keyword arguments.
            inputs: The batch.
            return_outputs: Whether to return the model's outputs too.
            num_items_in_batch: Targets of the batch.
        """
        objective = choose_objective(self.model, lambda: inputs, self.compute_loss_func, self.args.label_names)
        weight = max(1, objective.weight(inputs))
        loss_sum, outputs = objective(model, inputs, weight)
        return (loss_sum / weight, outputs) if return_outputs else loss_sum / weight

    def _objective(self, loader: Any) -> Any:
        def first_batch() -> Any:
            return placed(next(iter(loader.iterate(0)), {}), self.device)

        is_overridden = type(self).compute_loss is not Trainer.compute_loss
        compute_loss = self.compute_loss if is_overridden else None
        return choose_objective(self.model, first_batch, self.compute_loss_func, self.args.label_names, compute_loss)

    def _create_optimizer_and_scheduler(self, engine: NativeEngine, plan: StepPlan) -> None:
        self.optimizer = self._given_optimizers[0] or self._new_optimizer()
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise ConfigError(f"an optimizer must be a torch.optim.Optimizer, found {type(self.optimizer).__name__}")
        self.lr_scheduler = self._given_optimizers[1] or self._new_scheduler(plan.max_steps)
        self._check_optimizer_and_scheduler()
        engine.set_optimizer(self.optimizer, self.lr_scheduler)

    def _check_optimizer_and_scheduler(self) -> None:
        if self.lr_scheduler is not None and not isinstance(self.lr_scheduler, Scheduler):
            raise ConfigError(
                "a scheduler must have step(), state_dict() and load_state_dict(), "
                f"lr_scheduler_factory returned {type(self.lr_scheduler).__name__}"
            )
        if isinstance(self.lr_scheduler, ReduceLROnPlateau) and self.args.eval_strategy == "no":
            raise ConfigError("the schedule reduce_lr_on_plateau follows evaluations: set eval_strategy")
        trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        if trained.isdisjoint(map(id, self.model.parameters())):
            self.warn("the optimizer holds none of the model's parameters: nothing will be trained")

    def _new_optimizer(self) -> torch.optim.Optimizer:
        named_parameters = NamedParameters(self.model)
        if not len(named_parameters):
            raise ConfigError("the model has no trainable parameter")
        if self.optimizer_factory is not None:
            return self.optimizer_factory(named_parameters)
        groups = decay_groups(named_parameters, self.args.weight_decay, is_norm_or_bias)
        if self.optimizer_cls_and_kwargs is not None:
            optimizer_cls, kwargs = self.optimizer_cls_and_kwargs
            return optimizer_cls(groups, **kwargs)
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        return AdamW(groups, lr=self.args.learning_rate, betas=betas, eps=self.args.adam_epsilon)

    def _new_scheduler(self, max_steps: int) -> Any:
        if self.lr_scheduler_factory is not None:
            return self.lr_scheduler_factory(self.optimizer)
        warmup = self.args.get_warmup_steps(max_steps)
        return schedule_by_name(self.args.lr_scheduler_type, self.optimizer, warmup, max_steps, self.args.lr_scheduler_kwargs or {})

    def _speed(self, seconds: float, steps_before: int, tokens_before: int) -> dict[str, float]:
        steps = self.state.global_step - steps_before
        samples = steps * self.args.train_batch_size * self.args.gradient_accumulation_steps
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

    def _write_checkpoint(self, folder: Path) -> None:
        self._snapshot().write(folder)

    def _resume(self, plan: StepPlan) -> bool:
        """Take up a checkpoint, if one is asked for and there."""
        self.checkpoints.clean()
        path = self._resolve_checkpoint_path()
        if path is None:
            return False
        samples_here = self._progress.num_samples
        self._snapshot().read(Path(path), self.warn)
        samples_there, self._progress.num_samples = self._progress.num_samples, samples_here
        if samples_here != samples_there:
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
        if best is None or not self._validate_checkpoint(best):
            self.warn(f"the best checkpoint ({best}) is not there or damaged: the model keeps the weights of the last step")
            return
        load_weights(Path(best), self.unwrapped_model())

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> dict[str, float]:
        """Evaluate the model as it is now.

        Args:
            eval_dataset: Data, a dict of several, or None for the trainer's own.
            ignore_keys: Taken for compatibility; only logits are kept of a model's outputs.
            metric_key_prefix: Starts the name of every metric.
            **kwargs: None are known; taken so that a misspelt one is named.

        Returns:
            ``eval_loss`` (mean over all targets), runtime, throughput and ``compute_metrics``' results.

        Raises:
            ConfigError: If there is no data to evaluate on.
            DataError: If the data is empty.
        """
        if kwargs:
            raise TypeError(f"evaluate() got unknown arguments: {', '.join(kwargs)}")
        metrics = self._evaluate(eval_dataset, metric_key_prefix, lambda: False)
        assert metrics is not None, "nobody stops this evaluation"
        return metrics

    def _evaluate(self, eval_dataset: Any, prefix: str, stop: Callable[[], bool]) -> dict[str, float] | None:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ConfigError("evaluate() needs an eval_dataset")
        metrics: dict[str, float] = {}
        for name, part in _named(dataset):
            part_prefix = f"{prefix}_{name}" if name else prefix
            result = self._run_evaluation(part, part_prefix, stop, self.compute_metrics is not None)
            if result is None:
                return None
            metrics.update(result.metrics or {})
        self.log(metrics)
        self.emit("on_evaluate", metrics=metrics)
        return metrics

    def _run_evaluation(
        self, dataset: Any, prefix: str, stop: Callable[[], bool], keep: bool, need_labels: bool = True
    ) -> PredictionOutput | None:
        check_not_empty(dataset, f"the data of {prefix}")
        self.eval_dataloader = self._eval_loader(dataset)
        pick = self.preprocess_logits_for_metrics or (lambda logits, labels: logits)
        result = evaluate(
            self._prepared_engine(self.eval_dataloader),
            self.eval_dataloader,
            self.args.seed,
            keep=pick if keep else None,
            labels_key=(self.args.label_names or ["labels"])[0],
            need_labels=need_labels,
            after_batch=lambda: self.emit("on_prediction_step"),
            stop=stop,
        )
        if result is None:
            return None
        metrics = result.metrics(prefix)
        if not (need_labels or result.weight):
            del metrics[f"{prefix}_loss"]
        predictions, labels = joined(result.predictions), joined(result.labels)
        if self.compute_metrics is not None and predictions is not None:
            extra = self.compute_metrics(EvalPrediction(predictions, labels))
            metrics.update({name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in extra.items()})
        return PredictionOutput(predictions, labels, metrics)

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Logits, labels and metrics over a data set.

        Args:
            test_dataset: Data with or without labels.
            ignore_keys: Taken for compatibility; only logits are kept.
            metric_key_prefix: Starts the name of every metric.
        """
        output = self._run_evaluation(test_dataset, metric_key_prefix, lambda: False, keep=True, need_labels=False)
        assert output is not None, "nobody stops this prediction"
        self.emit("on_predict", metrics=output.metrics)
        return output

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
            self._best_checkpoint_before = self.state.best_model_checkpoint
            self.state.best_model_checkpoint = str(self.checkpoints.path(self.state.global_step))

    def _ranking(self, metrics: dict[str, float]) -> float:
        """The metric that ranks checkpoints and that schedules wait for."""
        name = self.args.best_metric_name
        if name not in metrics:
            raise ConfigError(f"metric_for_best_model: an evaluation gives no {name!r}; it gives {', '.join(sorted(metrics))}")
        return metrics[name]

    # Data

    def _loader(self, dataset: Any, training: bool) -> Any:
        return build_loader(dataset, self.args, self.model, self.data_collator, self.processing_class, self.device, training)

    def _eval_loader(self, dataset: Any) -> Any:
        return self._loader(dataset, training=False)


def _named(dataset: Any) -> list[tuple[str, Any]]:
    """One data set as (``""``, data), several by their names."""
    return list(dataset.items()) if isinstance(dataset, dict) else [("", dataset)]
