"""The engine of training steps that are the user's own: any batch, any models, any loss.

It does for them what the other engines do for objectives: one divisor for all micro-batches of all processes, seeds,
precision, sums over processes, clipping, the loss scaler.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ironloom.device import random_key, seed_everything
from ironloom.errors import ConfigError
from ironloom.objectives.base import batch_size
from ironloom.trainer.diagnose import no_gradient
from ironloom.trainer.dream.batches import moved, unpacked
from ironloom.trainer.dream.records import Means, StepResult, muted, read_result
from ironloom.trainer.dream.window import StepWeight, Window
from ironloom.trainer.engine import Batch, EvalStep, NativeEngine

if TYPE_CHECKING:
    from ironloom.trainer.dream.trainer import DreamTrainer

#: How near sums of weights that are no whole numbers must be to be the same, relative: their order may differ.
_SAME_WEIGHT = 1e-12


class StepEngine(NativeEngine):
    """Runs ``training_step`` and ``validation_step`` of a trainer in one process.

    Args:
        trainer: Owner of the steps.
        model: What is trained.
    """

    def __init__(self, trainer: DreamTrainer, model: nn.Module, *rest: Any):
        super().__init__(model, StepWeight(trainer), *rest)
        self._set_up(trainer)

    def _set_up(self, trainer: DreamTrainer) -> None:
        self.trainer = trainer
        self.window: Window | None = None
        self.validation = Means()
        self.validation_batch = 0
        self._last_weight: float = 0
        self.seen_batch: Batch | None = None
        self.has_validation_loss = False
        self._is_validating = False
        #: Whether the running batch was counted already: this process has none, but must compute along.
        self._is_spare = False
        self._by_hand = False
        self._norms: list[float] = []

    # Training

    def forward_backward(self, batches: Sequence[Batch | None], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """As in :class:`NativeEngine`; None stands for a batch that this process has nothing of."""
        window = self.window = Window(total or 1, len(batches))
        first = self.trainer.next_batch
        try:
            for index, batch in enumerate(batches):
                if index:
                    substep()
                window.index = index
                self._one(batch, first + index, random_key(*key, index, *self._stream), window)
        except BaseException:
            # What was stepped within a step that failed cannot be taken back: see DreamTrainer.save_in_training.
            if not window.stepped:
                self.window = None
            raise
        loss_sum, self._last_weight = self._united(window)
        self._by_hand = bool(window.stepped)
        if not math.isclose(self._last_weight, total, rel_tol=_SAME_WEIGHT):
            self.num_targets = int(self._last_weight)
            self._rescale(total, self._last_weight)
        self.window = None
        self._norms = window.stepped
        return loss_sum

    def counted(self, weight: float) -> float:
        """What the micro-batches of the last step weigh, which a step may know only after its forward pass."""
        return self._last_weight

    def _one(self, batch: Batch | None, number: int, key: int, window: Window) -> None:
        self._is_spare = batch is None
        if batch is None:
            batch, window.share = self._pattern_batch(), 0.0
        else:
            self.seen_batch, window.share = batch, 1.0
        if not self.model.training:  # a callback that evaluated left it so
            self.model.train()
        seed_everything(key)
        window.backward = []
        result = self._call("training_step", self._training_step, batch, number)
        loss_sum = result.loss_sum
        if window.backward:
            propagated = torch.stack(window.backward).sum()
            loss_sum = propagated if loss_sum is None else loss_sum.detach()
        elif loss_sum is None:
            raise ConfigError("training_step returned no loss: return one, or give it to self.backward()")
        elif loss_sum.requires_grad:
            self.back(loss_sum)
        elif result.weight:
            raise no_gradient()
        if window.share:
            window.loss += float(loss_sum.detach())
            window.weight += result.weight
            self.trainer.records.means.add(result.numbers, result.weight)

    def _call(self, hook: str, function: Callable[[Any, int], Any], batch: Batch, number: int) -> StepResult:
        whole = moved(unpacked(batch), self.device)
        spare = muted(self.trainer.named_metrics().values()) if self._is_spare else contextlib.nullcontext()
        with self._numerics(), spare:
            return read_result(function(whole, number), batch_size(batch), hook)

    def _training_step(self, batch: Any, number: int) -> Any:
        self.trainer.pre_train_step(batch, number)
        return self.trainer.training_step(batch, number)

    def back(self, loss_sum: torch.Tensor) -> None:
        """Propagate a loss sum of the running micro-batch back, as its share of the step."""
        assert self.window is not None, "only within a step"
        mean = loss_sum / self.window.total
        if not self.window.share:
            mean = mean * 0.0
        try:
            (mean if self.scaler is None else self.scaler.scale(mean)).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise ConfigError(
                "training_step has propagated this loss back already: return it and leave that to the trainer, "
                "or call self.backward(loss), once, instead of loss.backward()"
            ) from error

    def clip(self, max_norm: float | None, want_norm: bool) -> float | None:
        """As in :class:`NativeEngine`; of optimizers stepped by hand, the norm of their gradients together."""
        if self._by_hand:
            return math.sqrt(sum(norm * norm for norm in self._norms))
        return super().clip(max_norm, want_norm)

    def step(self) -> bool:
        """Update the weights, if the user's code has not done it."""
        if self._by_hand:
            if self.scaler is not None:
                self.scaler.update()
            return False
        return super().step()

    def zero_grad(self) -> None:
        """Drop the gradients, also of what no optimizer trains."""
        super().zero_grad()
        self.model.zero_grad()

    # Evaluation

    @torch.no_grad()
    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """Loss of a batch by ``validation_step``, whose further numbers are kept; it gives no logits."""
        number, self.validation_batch = self.validation_batch, self.validation_batch + 1
        self._is_spare = batch is None
        if batch is None:
            self._call("validation_step", self._validation_step, self._pattern_batch(), number)
            return EvalStep(0.0, 0, None)
        self.seen_batch = batch
        result = self._call("validation_step", self._validation_step, batch, number)
        self.validation.add(result.numbers, result.weight)
        if result.loss_sum is None:
            return EvalStep(0.0, 0, None)
        self.has_validation_loss = True
        return EvalStep(float(result.loss_sum), result.weight, None)

    @property
    def shows_logits(self) -> bool:
        """What a step does with its logits is its own."""
        return False

    def _validation_step(self, batch: Any, number: int) -> Any:
        self.trainer.pre_validation_step(batch, number)
        try:
            return self.trainer.validation_step(batch, number)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ConfigError("training_step calls backward(), which validation has no gradients for: write validation_step") from error

    def begin_validation(self) -> None:
        """Forget what an earlier validation has counted."""
        self.validation, self.validation_batch = Means(), 0
        self.has_validation_loss, self._is_validating = False, True

    def end_validation(self) -> None:
        """What is reported from now on belongs to training."""
        self._is_validating = False

    def note(self, numbers: Mapping[str, Any]) -> bool:
        """Take numbers that the running step reports; False if there is none."""
        result = read_result(numbers if "loss" not in numbers else {}, 0, "log_dict")
        is_training = self.window is not None
        if not self._is_spare and (is_training or self._is_validating):
            means = self.trainer.records.means if is_training else self.validation
            means.add(result.numbers, batch_size(self.seen_batch or {}))
        return is_training or self._is_validating

    @property
    def is_stepped_by_hand(self) -> bool:
        """Whether the user's code has stepped an optimizer in this step."""
        return self._by_hand or (self.window is not None and bool(self.window.stepped))

    def predict(self, batch: Batch) -> EvalStep:
        """Refused: nobody knows what a step's outputs are.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("predict() is for models that are called with the batch's keys: call the model in validation_step instead")

    # What differs with several processes

    def _pattern_batch(self) -> Batch:
        raise AssertionError("one process has all samples")

    def _united(self, window: Window) -> tuple[float, float]:
        """The loss sum and the weight of the step, over all processes; the gradients are summed too, unless it was stepped."""
        return window.loss, window.weight

    def united_gradients(self, parameters: list[Any], numbers: list[float]) -> list[float]:
        """Sum the gradients of parameters over all processes, in place, and numbers, which are returned."""
        return numbers

    def _rescale(self, expected: float, actual: float) -> None:
        """Put the weights that the steps gave in the place of those that were expected."""
        if self._by_hand:
            raise ConfigError(
                f"the steps gave a weight of {actual}, but their optimizers were stepped with {expected} samples: with self.step() "
                "return a mean over the samples"
            )
        factor = (expected or 1) / (actual or 1)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
