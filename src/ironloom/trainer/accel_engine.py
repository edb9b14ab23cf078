"""The engine over Accelerate: its model in DistributedDataParallel, its optimizer, its loss scaler; the sums are ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ironloom.device import seed_everything
from ironloom.errors import ConfigError
from ironloom.models.plan import blocks_of
from ironloom.objectives import Objective, logits_of
from ironloom.parallel.gradients import broadcast_weights
from ironloom.parallel.team import Team
from ironloom.settings.training import TrainingArguments
from ironloom.trainer.accelerated import Accelerated
from ironloom.trainer.diagnose import no_gradient
from ironloom.trainer.engine import Batch, EvalStep
from ironloom.trainer.team_engine import TeamEngine


class AccelEngine(TeamEngine):
    """Engine of one process or several, each with a copy of the model.

    Accelerate divides losses by its own count of accumulated batches, and DistributedDataParallel averages gradients.
    Here every gradient is that of (loss sum / targets) of the whole optimizer step, so the first is left out and the second undone.

    Args:
        model: Whole, the same in every process; it stays as it is, wrapped only where gradients are computed.
        objective: Loss as sum and weight.
        args: Precision, compilation, kernels.
        team: The processes.
        accelerated: What prepares model and optimizer.
    """

    def __init__(self, model: nn.Module, objective: Objective, args: TrainingArguments, team: Team, accelerated: Accelerated):
        model.to(team.device)
        super().__init__(model, objective, args, team)
        self.accelerated = accelerated
        self._wrapped: Any = None
        self._stepper: Any = None
        self._find_unused = False
        if args.fp16:
            self._share_scaler()
        if not team.is_alone:
            broadcast_weights(model, team.device)
        if args.torch_compile and team.is_alone:
            self.compile(args)
        elif args.torch_compile:
            for block in blocks_of(model).values() or [model]:
                block.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)

    def set_optimizer(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
        """Install the optimizer and its schedule, and have Accelerate prepare it and the model."""
        super().set_optimizer(optimizer, scheduler)
        accelerator = self.accelerated.accelerator
        self._forget()
        # Arithmetic in half precision is autocast's here as in every engine: Accelerate would put its own into model.forward.
        autocasts, accelerator.native_amp = accelerator.native_amp, False
        try:
            # The optimizer is made of weights that are in their place; its state is taken up by whoever resumes.
            self._wrapped, self._stepper = accelerator.prepare(self.model, optimizer, device_placement=[True, False])
        finally:
            accelerator.native_amp = autocasts
        if not self.team.is_alone:
            handler = accelerator.ddp_handler
            self._find_unused = handler is not None and handler.find_unused_parameters
            self._settle()

    def forward_backward(self, batches: Sequence[Batch | None], total: float, key: tuple[Any, ...], substep: Callable[[], None]) -> float:
        """Accumulate the gradient over the micro-batches; the last one brings the processes together."""
        loss_sum = super().forward_backward(batches, total, key, substep)
        self._check_gradients()
        return self.team.sum([loss_sum])[0]

    def _part(self, batch: Batch | None, divisor: float, key: int, is_last: bool) -> float:
        with self._training(is_last):
            if batch is not None:
                self._pattern = batch
                return self._micro_batch(batch, divisor, key)
            if is_last:
                self._take_part(divisor)
        return 0.0

    def step(self) -> bool:
        """Update the weights."""
        self._stepper.step()
        return not self._stepper.step_was_skipped

    def evaluate(self, batch: Batch | None, keep_logits: bool) -> EvalStep:
        """Loss and logits of this process's part of a batch, by the bare model."""
        return EvalStep(0.0, 0, None) if batch is None else super().evaluate(batch, keep_logits)

    def _micro_batch(self, batch: Batch, divisor: float, key: int) -> float:
        """Forward and backward of one micro-batch; its loss sum."""
        if not self.model.training:  # a callback that generated or evaluated left it so
            self.model.train()
        seed_everything(key)
        part, outputs = self._run(batch, divisor)
        if part.requires_grad:
            self._backward(part / divisor)
        elif self._weight(batch):
            raise no_gradient()
        elif not self.team.is_alone:
            self._backward(_nothing(outputs))
        return part.item()

    def _take_part(self, divisor: float) -> None:
        """Add nothing to the gradients of the others, who wait for this process."""
        batch = self._seen()
        self.model.train()
        _, outputs = self._run(batch, divisor)
        self._backward(_nothing(outputs))

    def _backward(self, mean: torch.Tensor) -> None:
        """Backward of what is averaged over the processes and ought to be summed."""
        if not self.team.is_alone:
            mean = mean * self.team.place.data_size
        try:
            (mean if self.scaler is None else self.scaler.scale(mean)).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise _unfinished(error) or error from error

    @contextlib.contextmanager
    def _training(self, is_last: bool) -> Iterator[None]:
        """Within it the model is the wrapped one, which sums gradients after the last micro-batch of a step."""
        accelerator = self.accelerated.accelerator
        accelerator.sync_gradients = is_last
        bare, self._forward = self._forward, self._forward if self.team.is_alone else self._wrapped
        try:
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self._wrapped):
                yield
        finally:
            self._forward = bare

    def _check_gradients(self) -> None:
        """Refuse weights that got no gradient: the processes would wait for them, and not sum what they have."""
        if self.team.is_alone or self._find_unused:
            return
        without = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad and parameter.grad is None]
        if without:
            raise ConfigError(
                f"{without[0]} and {len(without) - 1} more weights have no gradient after a step: freeze them, or give accelerate's "
                "DistributedDataParallelKwargs(find_unused_parameters=True) in kwargs_handlers"
            )

    def _settle(self) -> None:
        """Have DistributedDataParallel arrange its buckets now.

        It does so once, in the order in which the first gradients arrive, and the order of a sum over many processes follows from
        it. Done before the first step, a run that is resumed sums as one that was not interrupted.
        """
        bare, self._wrapped.module = self._wrapped.module, _Touch(self._wrapped.module)
        try:
            self._wrapped().backward()
        finally:
            self._wrapped.module = bare
        self.model.zero_grad()

    @property
    def _stream(self) -> tuple[int, ...]:
        """What tells this process's random numbers from those of processes with other samples."""
        rank = self.team.place.data_rank
        return (rank,) if rank else ()

    def _share_scaler(self) -> None:
        """One loss scaler: Accelerate's, or where it has none, on the CPU, ours given to it."""
        accelerator = self.accelerated.accelerator
        if accelerator.scaler is None:
            handler = accelerator.scaler_handler
            accelerator.scaler = torch.amp.GradScaler(self.device.type, **({} if handler is None else handler.to_kwargs()))
        self.scaler = accelerator.scaler

    def _forget(self) -> None:
        """Take what was prepared before out of the Accelerator; its hooks go with it."""
        accelerator = self.accelerated.accelerator
        accelerator._models = [model for model in accelerator._models if model is not self._wrapped and model is not self.model]
        accelerator._optimizers = [optimizer for optimizer in accelerator._optimizers if optimizer is not self._stepper]
        self._wrapped = self._stepper = None


class _Touch(nn.Module):
    """Every weight used once, in order, for a gradient of nothing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self) -> torch.Tensor:
        """Zero, of all weights that are trained."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        total = torch.zeros((), device=trained[0].device)
        for weight in trained:
            total = total + (weight.reshape(-1)[:1] * 0).sum()
        return total


def _nothing(outputs: Any) -> torch.Tensor:
    """Zero, that depends on everything that the outputs do."""
    logits = logits_of(outputs)
    if logits is None or not logits.requires_grad:
        raise ConfigError("a process without targets cannot take part in a step of the others: the model returned no logits")
    return (logits.float() * 0.0).nan_to_num().sum()


def _unfinished(error: RuntimeError) -> ConfigError | None:
    """What an error of DistributedDataParallel about unused weights means for the user."""
    if "Expected to have finished reduction" not in str(error) and "marked as ready twice" not in str(error).lower():
        return None
    return ConfigError(
        "some weights are used in one batch of a step and not in another: give accelerate's "
        "DistributedDataParallelKwargs(find_unused_parameters=True) in kwargs_handlers"
    )
