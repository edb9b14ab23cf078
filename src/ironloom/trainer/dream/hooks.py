"""The hooks of a :class:`DreamTrainer`, with what each does where it is not overridden."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ironloom.errors import ConfigError
from ironloom.objectives import Objective, choose_objective
from ironloom.optim import NamedParameters
from ironloom.trainer.dream.spreading import APPLY, ApplyHooks

if TYPE_CHECKING:
    from ironloom.parallel.team import Team
    from ironloom.trainer.dream.defaults import Defaults

#: Hooks of a step: with one of them overridden the run's steps are the user's own.
STEP_HOOKS = (
    "training_step",
    "validation_step",
    "configure_metrics",
    "pre_train_step",
    "pre_validation_step",
    "post_validation_epoch",
    "mark_forward_methods",
    *APPLY,
)

#: Hooks of the specification's system that have no place here, and why.
REFUSED = {
    "model_state_dict": "checkpoints hold every model under its attribute's name: leave it out",
    "load_model_state_dict": "checkpoints hold every model under its attribute's name: leave it out",
    "context_parallel_buffers": "sequences are cut for the default training_step only: leave it out",
}


class DreamHooks(ApplyHooks):
    """What a subclass may say. Everything else is the trainer's."""

    model: Any
    state: Any
    _defaults: Defaults
    _overridden: set[str]
    team: Team

    # What there is

    def configure_models(self) -> None:
        """Assign models to attributes. Default: the model of the configuration, as ``self.model``."""
        # Whoever writes this hook may look at the weights, and change them.
        draws_parts = not self.team.is_alone and "configure_models" not in self._overridden
        self.model = self._defaults.new_model(draws_parts)

    def post_configure_models(self) -> None:
        """Change models that are there, before they have been initialised. Default: nothing."""

    def init_weights(self) -> None:
        """Initialise weights. Default: they keep the values that their modules gave them."""

    def configure_dataloaders(self) -> tuple[Any, Any]:
        """The data of training and of validation, the latter None if there is none. Default: that of the configuration.

        Either is a dataset, whose order and position the trainer keeps, or a loader; data of validation may be a dict of several.
        """
        parts = self._defaults.parts()
        self.data_collator, self.processing_class = parts.collate, parts.processing_class
        return parts.train, parts.evaluation

    def configure_optimizers(self) -> Any:
        """Optimizers: one, several, or a dict by model; or assign them to attributes. Default: that of the configuration, of all models."""
        named_parameters = NamedParameters(self.model)
        if not len(named_parameters):
            raise ConfigError("the model has no trainable parameter")
        return self._defaults.new_optimizer(named_parameters)

    def configure_schedulers(self) -> Any:
        """Schedules: one, several, or a dict by optimizer; or assign them to attributes.

        Default: that of the configuration for each optimizer; none where the optimizers are those of an override.
        """
        if "configure_optimizers" in self._overridden and not self._defaults.has_scheduler:
            problems = list(self._defaults.without_schedule())
            if problems:
                raise ConfigError(problems)
            return None
        return {optimizer: self._defaults.new_scheduler(optimizer, self.plan) for optimizer in self.named_optimizers().values()}

    def configure_metrics(self) -> None:
        """Assign objects with ``update``, ``compute`` and ``reset`` to attributes; they count each validation. Default: none."""

    # What happens

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss of a batch.

        Default: that of the model, as every trainer computes it.

        Args:
            batch: As the loader gives it, on the device.
            batch_idx: Its number in the epoch.

        Returns:
            The mean over the samples of the batch; or (sum, weight); or a dict with such a ``loss`` and further
            numbers, whose means are logged.
        """
        return self._model_loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """The same for a batch of validation; without gradients. A ``loss`` may be missing. Default: ``training_step``."""
        if "training_step" in self._overridden:
            return self.training_step(batch, batch_idx)
        return self._model_loss(batch)

    def pre_train_step(self, batch: Any, batch_idx: int) -> None:
        """Before each training step."""

    def pre_validation_step(self, batch: Any, batch_idx: int) -> None:
        """Before each validation step."""

    def post_validation_epoch(self, metrics: Mapping[str, float]) -> None:
        """After each validation, with its results."""

    def post_setup(self) -> None:
        """Models are spread, optimizers and schedules are made; nothing is restored yet."""

    def pre_fit(self) -> None:
        """A checkpoint is taken up, if there is one; training begins."""

    def post_fit(self) -> None:
        """Training is over."""

    # Helpers of the defaults

    @abstractmethod
    def named_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by the names of their attributes, or by those they were returned with."""

    plan: Any
    _objective_of_model: Objective | None = None
    _total: Callable[[], float]

    def objective_of_model(self, batch: Any) -> Objective:
        """How the default step computes the loss of the model."""
        if self._objective_of_model is None:
            if len(self.named_models()) > 1:
                raise ConfigError("with several models only you know the loss: write training_step (and validation_step)")
            if not isinstance(batch, Mapping):
                raise ConfigError(
                    f"the default training_step calls the model with the keys of a batch, found a {type(batch).__name__}: "
                    "write training_step"
                )
            self._objective_of_model = choose_objective(self.model, lambda: batch)
        return self._objective_of_model

    def _model_loss(self, batch: Any) -> tuple[torch.Tensor, float]:
        objective = self.objective_of_model(batch)
        weight = objective.weight(batch)
        loss_sum, _ = objective(self.model, batch, self._total() or (weight or 1))
        return loss_sum, weight
