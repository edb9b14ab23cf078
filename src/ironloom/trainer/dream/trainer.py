"""A trainer to subclass: hooks with defaults, over the one loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ironloom.callbacks.base import TrainerCallback
from ironloom.device import seed_everything
from ironloom.errors import ConfigError, DataError
from ironloom.settings.dream import BaseTrainerConfig
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.dream.batches import Batches, Counted, is_loader
from ironloom.trainer.dream.defaults import Defaults
from ironloom.trainer.dream.group import ModelGroup, one_optimizer, one_scheduler
from ironloom.trainer.dream.hooks import REFUSED, STEP_HOOKS
from ironloom.trainer.dream.materialize import check_initialised, materialize
from ironloom.trainer.dream.records import Metric, StepRecords, computed
from ironloom.trainer.dream.spreading import make_step_engine
from ironloom.trainer.dream.steps import StepEngine
from ironloom.trainer.dream.tracking import Tracker, optimizers_of, schedulers_of
from ironloom.trainer.dream.within import WithinSteps
from ironloom.trainer.engine import NativeEngine
from ironloom.trainer.evaluating import named
from ironloom.trainer.evaluation import evaluate
from ironloom.trainer.optimization import check_scheduler
from ironloom.trainer.plan import StepPlan
from ironloom.trainer.types import PredictionOutput, TrainOutput


class DreamTrainer(Tracker, WithinSteps):
    """Trains what its hooks say; those that are not overridden say what the configuration does.

    Models, optimizers, schedules and metrics that hooks assign to attributes are found, spread, saved and restored.
    Hooks are called by ``fit()``, or when an evaluation needs them: models, data, metrics; ``apply_...``; optimizers,
    schedules; ``post_setup``; ``pre_fit``.

    Args:
        config: Names, devices, training, checkpoints, and the defaults of the hooks.
        args: Training arguments in the place of those that the configuration amounts to.
        callbacks: Further callbacks.
        epochs: Of ``args``, those that are so many epochs of the data, whose length a hook knows.

    Raises:
        ConfigError: For a configuration that is wrong, and hooks that have no place here.
    """

    def __init__(
        self,
        config: BaseTrainerConfig,
        args: TrainingArguments | None = None,
        callbacks: list[Any] | None = None,
        epochs: Mapping[str, float] | None = None,
    ):
        if not isinstance(config, BaseTrainerConfig):
            raise ConfigError(f"config must be a DreamTrainerConfig, found {type(config).__name__}")
        odd = [f"{name}: {why}" for name, why in REFUSED.items() if hasattr(self, name)]
        if odd:
            raise ConfigError("; ".join(odd))
        known = (*STEP_HOOKS, "configure_models", "configure_dataloaders", "configure_optimizers", "configure_schedulers")
        self._overridden = {name for name in known if getattr(type(self), name) is not getattr(DreamTrainer, name)}
        self.config = config
        self._defaults = Defaults(config, args, epochs)
        self._is_set_up = False
        self._models: dict[str, nn.Module] = {}
        self._optimizers: dict[str, Optimizer] = {}
        self._schedules: list[tuple[Any, Optimizer]] = []
        self._metrics: dict[str, Metric] = {}
        self.records = StepRecords()
        # Where the arguments say the arithmetic, they say it for the devices too.
        dtype = "bfloat16" if self._defaults.args.bf16 else "float16" if self._defaults.args.fp16 else "float32"
        self.parameters = config.device_parameters.replace(param_dtype=dtype)
        callbacks = [*self._defaults.callbacks, *(callbacks or []), _Boundaries(self)]
        super().__init__(nn.Module(), self._defaults.args, callbacks=callbacks, device_parameters=self.parameters)

    def fit(self, resume_from_checkpoint: bool | str | Path | None = None) -> TrainOutput:
        """Another name of :meth:`train`."""
        return self.train(resume_from_checkpoint)

    # Preparation

    @property
    def _is_plain(self) -> bool:
        """Whether the steps are those of every trainer, with its engines."""
        return not self._overridden.intersection(STEP_HOOKS) and len(self._models) == 1

    def set_up(self) -> None:
        """Call the hooks for models, data and metrics, once."""
        if self._is_set_up:
            return
        self.team  # noqa: B018 - the processes meet before any of them reads data
        self._make_models()
        data = self.configure_dataloaders()
        if not isinstance(data, tuple) or len(data) != 2:
            raise ConfigError("configure_dataloaders must return a pair: data to train on, and data to validate on or None")
        self.train_dataset, self.eval_dataset = data
        with self._tracked(Metric) as found:
            self.configure_metrics()
        self._metrics = found
        for metric in found.values():
            if isinstance(metric, nn.Module):
                metric.to(self.device)
        if not self._is_plain:
            self.args.remove_unused_columns = False
            self.add_callback(self.records)
        self._is_set_up = True

    def _make_models(self) -> None:
        seed_everything(self.args.seed)
        with self._tracked(nn.Module, ("model",)) as found:
            self.configure_models()
        inner = {id(part) for model in found.values() for part in model.modules() if part is not model}
        self._models = {name: model for name, model in found.items() if id(model) not in inner}
        if not self._models:
            raise ConfigError("configure_models assigned no model: write self.model = ..., a torch.nn.Module")
        self.post_configure_models()
        is_meta = any(tensor.is_meta for model in self._models.values() for tensor in model.parameters())
        changes = {"post_configure_models", "init_weights"}
        is_changed = any(getattr(type(self), name) is not getattr(DreamTrainer, name) for name in changes)
        materialize(self._models, self.device, may_wait=not self.team.is_alone and not is_changed)
        self.init_weights()
        if is_meta or type(self).init_weights is not DreamTrainer.init_weights:
            check_initialised(self._models)
        self.model = next(iter(self._models.values())) if len(self._models) == 1 else ModelGroup(self._models)

    def _check_data(self) -> None:
        self.set_up()
        if self.eval_dataset is None:
            problems = list(self._defaults.without_validation())
            if problems:
                raise ConfigError(problems)
            self.args.eval_strategy, self.args.eval_on_start = "no", False
        super()._check_data()

    def _loader(self, dataset: Any, training: bool) -> Any:
        place = self.team.place
        if is_loader(dataset):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            loader = dataset if hasattr(dataset, "iterate") else Counted(dataset, seed, place.data_rank, place.data_size)
            if training:
                self.args.per_device_train_batch_size = max(1, loader.global_batch_size // place.data_size)
        else:
            loader = super()._loader(dataset, training)
        limit = None
        if not training and "configure_dataloaders" in self._overridden:
            limit = self.config.training_parameters.val_steps_per_epoch
        return loader if self._is_plain and limit is None and not is_loader(dataset) else Batches(loader, limit)

    def _plan(self, loader: Any) -> StepPlan:
        plan = super()._plan(loader)
        self._defaults.settle(plan)
        return plan

    def _prepared_engine(self, loader: Any) -> NativeEngine:
        if self._is_plain:
            return super()._prepared_engine(loader)
        if self._engine is None:
            self._check_precision()
            self._engine = make_step_engine(self, self._models, self.model, self._overridden)
        return self._engine

    def _create_optimizer_and_scheduler(self, engine: NativeEngine, plan: StepPlan) -> None:
        self.plan = plan
        with self._tracked(Optimizer, ("optimizer",)) as found:
            returned = self.configure_optimizers()
        self._optimizers = optimizers_of(returned, found, self._models)
        with self._tracked(LRScheduler, ("lr_scheduler",)) as found:
            returned = self.configure_schedulers()
        self._schedules = schedulers_of(returned, found, self._optimizers)
        self.optimizer = one_optimizer(list(self._optimizers.values()))
        self.lr_scheduler = one_scheduler([scheduler for scheduler, _ in self._schedules])
        check_scheduler(self.lr_scheduler, self.args)
        engine.set_optimizer(self.optimizer, self.lr_scheduler)
        self.post_setup()

    # Evaluation and saving

    def sanity_check(self) -> None:
        """Try the first batches of validation; nothing is recorded, and nothing of the run changes."""
        count = self.config.training_parameters.num_sanity_val_steps
        if not count or self.eval_dataset is None or self.state.global_step:
            return
        assert self._engine is not None, "training has begun"
        for name, dataset in named(self.eval_dataset):
            self._reset_validation()
            result = evaluate(self._engine, Batches(self._eval_loader(dataset), count), self.args.seed, team=self.team)
            if result is not None and result.weight and not math.isfinite(result.loss):
                raise DataError(f"the loss of the first {count} validation batches {name} is {result.loss} before the first step")
        self._reset_validation()
        if isinstance(self._engine, StepEngine):
            self._engine.end_validation()

    def _reset_validation(self) -> None:
        if isinstance(self._engine, StepEngine):
            self._engine.begin_validation()
        for metric in self._metrics.values():
            metric.reset()

    def _evaluate(self, dataset: Any, prefix: str, stop: Callable[[], bool]) -> dict[str, float] | None:
        self.set_up()
        return super()._evaluate(dataset, prefix, stop)

    def _run_evaluation(
        self, dataset: Any, prefix: str, stop: Callable[[], bool], keep: bool, need_labels: bool = True
    ) -> PredictionOutput | None:
        self.set_up()
        engine = self._engine or self._prepared_engine(self._eval_loader(dataset))
        if not isinstance(engine, StepEngine):
            return super()._run_evaluation(dataset, prefix, stop, keep, need_labels)
        self._reset_validation()
        try:
            output = super()._run_evaluation(dataset, prefix, stop, False, need_labels=True)
        finally:
            engine.end_validation()
        if output is None or output.metrics is None:
            return None
        metrics = output.metrics
        if not self.team.any([engine.has_validation_loss])[0]:
            del metrics[f"{prefix}_loss"]
        numbers = {**engine.validation.take(self.team), **computed(self._metrics, self.team)}
        metrics.update({f"{prefix}_{name}": value for name, value in numbers.items()})
        self.post_validation_epoch(metrics)
        return output

    def save_model(self, output_dir: Any = None) -> None:
        """As in every trainer."""
        self.set_up()
        super().save_model(output_dir)

    def save_in_training(self, at_once: bool = False) -> str | None:
        """As in every trainer; not within a step of which a part was done by hand."""
        if isinstance(self._engine, StepEngine) and self._engine.window is not None:
            self.warn(f"step {self.state.global_step + 1} failed after one of its optimizers was stepped: it is not saved")
            return None
        return super().save_in_training(at_once)


class _Boundaries(TrainerCallback):
    """Calls the hooks at the ends of training."""

    def __init__(self, trainer: DreamTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint is taken up, and nothing was trained since."""
        self._trainer.pre_fit()
        self._trainer.sanity_check()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        self._trainer.post_fit()
