"""What can be done with a model that is there: its loss, evaluation and prediction. Training comes on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ironloom.callbacks.textgen_callback import TextgenCallback
from ironloom.errors import ConfigError
from ironloom.models.deferred import give_weights, start_of
from ironloom.objectives import choose_objective
from ironloom.parallel.recompute import recompute_blocks
from ironloom.settings.dream.device import DeviceParameters
from ironloom.settings.pipeline import PipelineTrainingArguments, pipeline_arguments
from ironloom.trainer.base_trainer import BaseTrainer, check_not_empty
from ironloom.trainer.engine import NativeEngine, placed
from ironloom.trainer.evaluation import Evaluation, evaluate, first_losses, joined
from ironloom.trainer.loaders import build_loader
from ironloom.trainer.parallel_engine import make_engine
from ironloom.trainer.types import EvalPrediction, PredictionOutput


class EvaluatingTrainer(BaseTrainer):
    """Evaluates and predicts, in one process or several.

    Takes the arguments of :class:`BaseTrainer` and:

    Args:
        compute_loss_func: ``f(outputs, labels, num_items_in_batch)``, divided by ``num_items_in_batch``.
        compute_metrics: ``f(EvalPrediction)`` -> further metrics of an evaluation.
        preprocess_logits_for_metrics: ``f(logits, labels)`` -> what is kept of the logits for it.
        device_parameters: How several processes share the work; by default each holds a copy of the model.
    """

    #: Makes the schedule of a pipeline, instead of the class that the arguments name.
    pipe_schedule_factory: Callable[..., Any] | None = None

    def __init__(
        self,
        *args: Any,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, Any], torch.Tensor] | None = None,
        device_parameters: DeviceParameters | None = None,
        **kwargs: Any,
    ):
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.device_parameters = device_parameters
        super().__init__(*args, **kwargs)
        if device_parameters is not None and not device_parameters.error_if_nonfinite:
            self.args.nonfinite_policy = "skip"
        self._engine: NativeEngine | None = None
        self._all_sets = Evaluation()

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
            ``eval_loss`` (mean over all targets), runtime, throughput and ``compute_metrics``' results. Of several sets, for each
            of them ``eval_NAME_loss`` and the others, and for all of them together ``eval_loss``, over all their targets,
            runtime and throughput.

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
        self._all_sets = Evaluation()
        for name, part in named(dataset):
            part_prefix = f"{prefix}_{name}" if name else prefix
            result = self._run_evaluation(part, part_prefix, stop, self.compute_metrics is not None)
            if result is None:
                return None
            metrics.update(result.metrics or {})
        parts = [f"{prefix}_{name}" for name in dataset] if isinstance(dataset, dict) else []
        if parts and all(f"{part}_loss" in metrics for part in parts):
            metrics = {**self._all_sets.metrics(prefix), **metrics}
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
            after_batch=self._after_batch,
            stop=stop,
            team=self.team,
        )
        if result is None:
            return None
        self._all_sets.absorb(result)
        metrics = result.metrics(prefix)
        if not (need_labels or result.weight):
            del metrics[f"{prefix}_loss"]
        predictions, labels = joined(result.predictions), joined(result.labels)
        if self.compute_metrics is not None and predictions is not None:
            extra = self.compute_metrics(EvalPrediction(predictions, labels))
            metrics.update({name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in extra.items()})
        return PredictionOutput(predictions, labels, metrics)

    def _validation_losses(self, num_batches: int) -> list[float]:
        """The mean loss of each of the first batches of the validation data, over all processes; nothing is recorded."""
        loader = self.eval_dataloader
        return first_losses(self._prepared_engine(loader), loader, num_batches, self.args.seed, self.team)

    def _after_batch(self) -> None:
        self.phase("evaluate", self.at_step)
        self.emit("on_prediction_step")

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

    # The model and its loss

    def _prepared_engine(self, loader: Any) -> NativeEngine:
        """The engine of the model; ``loader`` gives a batch to try if the kind of the model's loss is not known."""
        if self._engine is None or self._engine.model is not self.model:
            self._check_precision()
            if self.team.is_alone:
                give_weights(self.model, self.device)
                self.model.to(self.device)
            if self.team.place.degrees.pp > 1:
                self._engine = self._pipeline_engine(loader)
            else:
                objective = self._objective(loader)
                if isinstance(self.args, PipelineTrainingArguments) and self.args.checkpoint_sequential:
                    recompute_blocks(self.model)
                self._engine = make_engine(self.model, objective, self.args, self.device_parameters, self.team)
        return self._engine

    def _pipeline_engine(self, loader: Any) -> NativeEngine:
        """The engine of a model that is cut into stages; ``loader`` gives a batch that shows what it is called with."""
        from ironloom.trainer.pipeline_engine import PipelineEngine

        self._check_parts()
        args = pipeline_arguments(self.args, self.team.place.degrees.pp)
        batch = next(iter(loader.iterate(0)), None)
        is_missing = self.team.any([batch is None])[0]
        if batch is None or is_missing:
            raise ConfigError("a pipeline needs a batch of data in every process to see what the model is called with: use fewer processes")
        objective = self._objective(loader)
        return PipelineEngine(self.model, objective, args, self.team, batch, self.pipe_schedule_factory, self.device_parameters)

    def _check_parts(self) -> None:
        """Refuse what needs the whole model in one process."""
        if any(isinstance(callback, TextgenCallback) for callback in self.callback_handler.callbacks):
            raise ConfigError("TextgenCallback generates with the whole model, which no process of a pipeline has: leave it out")

    def _check_precision(self) -> None:
        drawn = {id(tensor) for part in self.model.modules() if start_of(part) is not None for tensor in part.parameters()}
        if any(parameter.is_meta and id(parameter) not in drawn for parameter in self.model.parameters()):
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
            num_items_in_batch: Targets of the batch, or the sum of their ``loss_weights``; then the mean is to be that of weighted losses.
        """
        objective = choose_objective(self.model, lambda: inputs, self.compute_loss_func, self.args.label_names)
        weight = objective.weight(inputs) or 1
        loss_sum, outputs = objective(model, inputs, weight)
        return (loss_sum / weight, outputs) if return_outputs else loss_sum / weight

    def _objective(self, loader: Any) -> Any:
        def first_batch() -> Any:
            return placed(next(iter(loader.iterate(0)), {}) or {}, next(self.model.parameters()).device)

        is_overridden = type(self).compute_loss is not EvaluatingTrainer.compute_loss
        compute_loss = self.compute_loss if is_overridden else None
        return choose_objective(self.model, first_batch, self.compute_loss_func, self.args.label_names, compute_loss)

    # Data

    def _loader(self, dataset: Any, training: bool) -> Any:
        place = self.team.place
        return build_loader(
            dataset,
            self.args,
            self.model,
            self.data_collator,
            self.processing_class,
            self.device,
            training,
            place.data_rank,
            place.data_size,
        )

    def _eval_loader(self, dataset: Any) -> Any:
        return self._loader(dataset, training=False)


def named(dataset: Any) -> list[tuple[str, Any]]:
    """One data set as (``""``, data), several by their names."""
    return list(dataset.items()) if isinstance(dataset, dict) else [("", dataset)]
