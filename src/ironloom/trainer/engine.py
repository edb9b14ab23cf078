"""The native engine: one process, one device, PyTorch as it is.

An engine owns the model, the optimizer, the schedule and the arithmetic; the loop tells it when.
Trainers differ by their engine and share the loop.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ironloom.device import keep_freed_memory, random_key, seed_everything
from ironloom.errors import ConfigError
from ironloom.models.documents import heed_positions
from ironloom.objectives import Objective, Reported, ReportingObjective, logits_of
from ironloom.objectives.weighted import LOSS_WEIGHTS, counting_targets
from ironloom.optim.offload import HostState
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.diagnose import batch_error, index_error, no_gradient, sparse_gradients, token_error
from ironloom.trainer.kernels import check_flex_training, use_flex
from ironloom.trainer.optimizer_state import hyperparameters
from ironloom.trainer.packed import has_documents, unheeded

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class EvalStep:
    """Result of one batch of an evaluation: loss sum, its weight, logits (None if there are none), what the objective reports."""

    loss_sum: float
    weight: float
    logits: torch.Tensor | None
    sums: tuple[float, ...] = ()


class Engine(Protocol):
    """What the loop asks of an engine."""

    def weight(self, batches: Sequence[Batch]) -> float:
        """Targets of all micro-batches of a step, over all data-parallel ranks."""
        ...

    def forward_backward(self, batches: Sequence[Batch], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate the gradient of (loss sum / total); returns the loss sum over all ranks."""
        ...

    def counted(self, weight: float) -> float:
        """What the micro-batches weigh, now that they were run: ``weight``, if it was known before."""
        ...

    def take_sums(self) -> list[float]:
        """Sums that the objective reported of this process's micro-batches, in the order of their names; starts anew."""
        ...

    def clip(self, max_norm: float | None, want_norm: bool) -> float | None:
        """Clip the gradient; its L2 norm before that, if it was needed or wanted."""
        ...

    def step(self) -> bool:
        """Update the weights; False if the loss scaler skipped the update."""
        ...

    def skip(self) -> None:
        """Leave the update out."""
        ...

    def schedule(self) -> None:
        """Advance the learning rate by one step."""
        ...

    def zero_grad(self) -> None:
        """Drop the gradients."""
        ...

    def evaluate(self, batch: Batch, keep_logits: bool) -> EvalStep:
        """Loss and logits of a batch, without gradients."""
        ...


class NativeEngine:
    """Engine of a single process.

    Args:
        model: On its device, with float32 master weights if ``bf16`` or ``fp16`` is asked for.
        objective: Loss as sum and weight.
        args: Precision, compilation, kernels.
        device: Where the model is.
    """

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, device: torch.device):
        self.model = model
        self.objective = objective
        self.device = device
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.configured: list[dict[str, Any]] = []
        self.autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.scaler = torch.amp.GradScaler(device.type) if args.fp16 else None
        if device.type == "cpu":
            keep_freed_memory()
        self.math_attention, self.flex_attention = (args.attention_kernel == name for name in ("math", "flex"))
        use_flex(model, self.flex_attention, device)
        self._forward: Callable[..., Any] = model
        #: What each forward and backward pass is done within.
        self.around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        self.host_state: HostState | None = None
        #: Names of what the objective reports beside the loss.
        self.reports = objective.reports if isinstance(objective, ReportingObjective) else ()
        self._reported = [0.0] * len(self.reports)
        heed_positions(model)
        #: Whether it is known that documents of a row do not see each other; until then ``weight`` looks for such rows.
        self.is_probed = False
        #: Whether the micro-batches that were weighed last have rows of several documents, in any process.
        self.meets_documents = False
        #: Targets of the micro-batches that were weighed last, over all data-parallel ranks: what they weigh, unless they have weights.
        self.num_targets = 0

    def set_optimizer(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        """Install the optimizer and its schedule.

        Raises:
            ConfigError: If the model cannot be trained with the kernel that was asked for.
        """
        if self.flex_attention:
            check_flex_training(self.model)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.configured = hyperparameters(optimizer)

    def compile(self, args: TrainingArguments) -> None:
        """Compile the model as a whole."""
        self._forward = torch.compile(self.model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)

    def weight(self, batches: Sequence[Batch]) -> float:
        """Targets of all micro-batches, or the sum of their weights."""
        weight: float = 0
        self.num_targets = 0
        for batch in batches:
            found = self._weight(batch)
            weight += found
            self.num_targets += int(self._weight(counting_targets(batch)) if _has_weights(batch) else found)
        self.meets_documents = not self.is_probed and any(map(has_documents, batches))
        return weight

    def forward_backward(self, batches: Sequence[Batch | None], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate gradients over the micro-batches; ``substep`` is called between them.

        Raises:
            ConfigError: If there are targets, but the loss has no gradient.
        """
        divisor, loss_sum, last = total or 1, 0.0, len(batches) - 1
        for index, batch in enumerate(batches):
            if index:
                substep()
            loss_sum += self._part(batch, divisor, random_key(*key, index, *self._stream), index == last)
        return loss_sum

    def counted(self, weight: float) -> float:
        """An objective knows the weight before."""
        return weight

    def _part(self, batch: Batch | None, divisor: float, key: int, is_last: bool) -> float:
        """What one micro-batch adds to gradients and loss sum; engines of several processes know more about it."""
        assert batch is not None, "one process has all samples"
        return self._micro_batch(batch, divisor, key)

    def _micro_batch(self, batch: Batch, divisor: float, key: int) -> float:
        """Forward and backward of one micro-batch; its loss sum."""
        if not self.model.training:  # a callback that generated or evaluated left it so
            self.model.train()
        seed_everything(key)
        with self.around():
            part, outputs = self._run(batch, divisor)
            if part.requires_grad:
                # Not part.backward(1 / divisor): a gradient that is given makes PyTorch import SymPy, half a second.
                mean = part / divisor
                (mean if self.scaler is None else self.scaler.scale(mean)).backward()  # type: ignore[no-untyped-call]
        if not part.requires_grad and self._weight(batch):
            raise no_gradient()
        if isinstance(outputs, Reported):
            self._reported = [sum(pair) for pair in zip(self._reported, outputs.sums.tolist(), strict=True)]
        return part.item()

    def take_sums(self) -> list[float]:
        """What the objective reported since the last call."""
        sums, self._reported = self._reported, [0.0] * len(self.reports)
        return sums

    def clip(self, max_norm: float | None, want_norm: bool) -> float | None:
        """Clip by the global L2 norm, as ``torch.nn.utils.clip_grad_norm_`` does."""
        if not max_norm and not want_norm:
            return None
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
        return self.clip_now(self._parameters, max_norm)

    def clip_now(self, parameters: Sequence[torch.Tensor], max_norm: float | None) -> float:
        """Clip the gradients of some parameters by their norm together, which is returned."""
        try:
            norm = self._norm([parameter.grad for parameter in self._counted(parameters) if parameter.grad is not None])
        except NotImplementedError as error:
            raise sparse_gradients(self.model) or error from error
        value = norm.item()
        if max_norm and math.isfinite(value) and value > max_norm:
            self._scale(parameters, max_norm, norm)
        return value

    def _norm(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """L2 norm of all tensors together, a scalar."""
        return nn.utils.get_total_norm(tensors)

    def _scale(self, parameters: Sequence[torch.Tensor], max_norm: float, norm: torch.Tensor) -> None:
        """Multiply the gradients of parameters by ``max_norm / norm``."""
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)

    def _counted(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Those of some parameters that this process counts in norms."""
        return parameters

    def step(self) -> bool:
        """Update the weights."""
        if self.host_state is None:
            return self._step()
        with self.host_state.on_device(self._optimizer):
            return self._step()

    def _step(self) -> bool:
        if self.scaler is None:
            self._optimizer.step()
            return True
        scale = self.scaler.get_scale()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    def skip(self) -> None:
        """Leave the update out; a loss scaler forgets that it has unscaled these gradients."""
        if self.scaler is not None:
            self.scaler.update(self.scaler.get_scale())

    def schedule(self) -> None:
        """Advance the schedule; one that waits for metrics advances after evaluations instead."""
        if self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad()

    def learning_rate(self) -> float:
        """Rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def parameter_norm(self) -> float:
        """L2 norm of all trained parameters."""
        return self._norm(self._counted(self._parameters)).item()

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)

    @torch.no_grad()
    def evaluate(self, batch: Batch, keep_logits: bool) -> EvalStep:
        """Loss and logits of a batch; the model is expected to be in evaluation mode."""
        weight = self._weight(batch)
        loss_sum, outputs = self._run(batch, weight or 1)
        sums = tuple(outputs.sums.tolist()) if isinstance(outputs, Reported) else ()
        return EvalStep(loss_sum.item(), weight, logits_of(outputs) if keep_logits else None, sums)

    @torch.no_grad()
    def predict(self, batch: Batch) -> EvalStep:
        """Logits of a batch without labels."""
        if _has_weights(batch):
            batch = {name: value for name, value in batch.items() if name != LOSS_WEIGHTS}
        with self._numerics():
            outputs = self._forward(**placed(batch, self.device))
        return EvalStep(0.0, 0, logits_of(outputs))

    def logits(self, batch: Batch) -> torch.Tensor | None:
        """Logits of a batch, with gradients where these are on; for weights that this process has as a whole."""
        with self._numerics():
            return logits_of(self.objective(self._forward, placed(batch, self.device), 1)[1])

    @property
    def shows_logits(self) -> bool:
        """Whether ``evaluate`` has logits to give, and changes nothing."""
        return True

    @property
    def is_compiled(self) -> bool:
        """Whether the model, or a part of it, is compiled."""
        return self._forward is not self.model or any(module._compiled_call_impl is not None for module in self.model.modules())

    def _weight(self, batch: Batch) -> float:
        """Targets of a batch; what is no batch is named."""
        try:
            return self.objective.weight(batch)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise batch_error(batch) or error from error

    def _run(self, batch: Batch, divisor: float) -> tuple[torch.Tensor, Any]:
        """The objective on a batch; a token that the model does not know is named."""
        try:
            with self._numerics():
                return self.objective(self._forward, placed(batch, self.device), divisor)
        except IndexError as error:
            raise token_error(self.model, batch) or index_error(batch, error) from error
        except RuntimeError as error:
            raise token_error(self.model, batch) or error from error
        except TypeError as error:
            problem = unheeded(self.model, batch)
            raise (error if problem is None else ConfigError(problem)) from error

    @property
    def _stream(self) -> tuple[int, ...]:
        """What tells this process's random numbers from those of others."""
        return ()

    @property
    def _parameters(self) -> list[nn.Parameter]:
        """Those that the optimizer trains now; a callback may have added some."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    @property
    def _optimizer(self) -> Optimizer:
        assert self.optimizer is not None, "set_optimizer comes before training"
        return self.optimizer

    def _numerics(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None and not self.math_attention:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        if self.autocast_dtype is not None:
            stack.enter_context(torch.autocast(self.device.type, self.autocast_dtype))
        if self.math_attention:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        return stack


def _has_weights(batch: Any) -> bool:
    return isinstance(batch, Mapping) and isinstance(batch.get(LOSS_WEIGHTS), torch.Tensor)


def placed(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; on the CPU it is there already."""
    if device.type == "cpu":
        return batch
    return {name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
