"""Sums that begin early, in runs: with errors in the midst, skipped steps, a loss scaler, processes without samples."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ironloom.parallel import gradients
from ironloom.parallel.gradients import GradientSums, sum_gradients
from ironloom.trainer.parallel_engine import ParallelEngine
from parallel.summing import ALL, CPU, SIZE, Counter, gathered, loss_of, make, together
from spawned import run
from spread import spread_over
from tiny import assert_same_weights, records, tiny_lm, tiny_trainer, uneven_samples, weights


class Strike(torch.autograd.Function):
    """The identity; going back through it is an error, or what a second Ctrl-C does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, error: bool) -> torch.Tensor:
        ctx.error = error
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        if ctx.error:
            raise ZeroDivisionError("in the midst")
        signal.raise_signal(signal.SIGINT)
        return *grads, None


def broken(parameters: list[nn.Parameter], place: int, error: bool) -> None:
    """A backward pass that ends after some parameters."""
    first = loss_of(parameters, ALL[:place], 0) * torch.ones(SIZE)
    total = Strike.apply(first, error)
    for index in ALL[place:]:
        total = torch.tanh(total + parameters[index])
    total.sum().backward()


@pytest.mark.parametrize("error", [True, False])
def test_after_an_error_in_the_midst_the_next_step_is_right(error: bool) -> None:
    """Every process meets it, after another number of gradients."""

    def steps() -> list[int]:
        with together() as (rank, counter):
            parameters, sums, begun = make({}), GradientSums(dist.new_group(), CPU), []
            for number in range(5):
                before = counter.count
                if number in (1, 3):
                    with pytest.raises(ZeroDivisionError if error else KeyboardInterrupt), sums.armed(parameters):
                        broken(parameters, 5 if rank == 0 else 1, error)
                    assert not sums._sent
                else:
                    with sums.armed(parameters):
                        loss_of(parameters, ALL, 10 * number + rank).backward()
                    truth = gathered(parameters)
                    sums.finish(parameters, [])
                    for parameter, wanted in zip(parameters, truth, strict=True):
                        assert torch.equal(parameter.grad.double(), wanted.float().double())
                begun.append(counter.count - before)
                for parameter in parameters:
                    assert not parameter._post_accumulate_grad_hooks
                    parameter.grad = None
            return begun

    # The first step sums three buckets after what is agreed; one that fails has sent all three in any case.
    assert run(steps, 2) == [[4, 3, 4, 3, 4]] * 2


def test_a_process_that_fails_leaves_nobody_waiting() -> None:
    def steps() -> str:
        with together() as (rank, _):
            parameters, sums = make({}), GradientSums(dist.new_group(), CPU)
            with sums.armed(parameters):
                loss_of(parameters, ALL, rank).backward()
            sums.finish(parameters, [])
            if rank == 1:
                with pytest.raises(ZeroDivisionError), sums.armed(parameters):
                    broken(parameters, 3, True)
                return "left"
            with pytest.raises(RuntimeError) as failed:
                with sums.armed(parameters):
                    loss_of(parameters, ALL, rank).backward()
                sums.finish(parameters, [])
            assert not any(parameter._post_accumulate_grad_hooks for parameter in parameters)
            return type(failed.value).__name__

    assert run(steps, 2, timeout=30)[1] == "left"


class Fickle(nn.Module):
    """The first of two models is used for some batches only; others give what is no number."""

    def __init__(self, spoils: bool = False) -> None:
        super().__init__()
        self.rare, self.usual, self.spoils = tiny_lm(seed=1), tiny_lm(), spoils

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        first = int(input_ids[0, 0])
        logits = self.usual(input_ids)["logits"]
        if first % 3 == 0:
            logits = logits + self.rare(input_ids)["logits"]
        return {"logits": logits * (float("nan") if self.spoils and first % 5 == 0 else 1.0)}


@pytest.mark.parametrize(
    ("make_model", "args"),
    [
        (tiny_lm, {"gradient_accumulation_steps": 2}),
        (Fickle, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}),
        (lambda: Fickle(spoils=True), {"nonfinite_policy": "skip"}),
    ],
)
def test_a_run_is_the_same_bits(make_model: Any, args: dict[str, Any], tmp_path: Path) -> None:
    """With a short last batch, of which the second process has nothing."""

    def train(overlaps: bool) -> tuple[str, Any, int]:
        gradients.BUCKET_BYTES = 2000
        ParallelEngine.overlaps = property(lambda engine: overlaps, lambda engine, value: None)
        trainer = tiny_trainer(
            tmp_path / str(overlaps),
            make_model(),
            uneven_samples(17),
            options={"device_parameters": spread_over(dp_replicate=2)},
            **{"max_steps": 15, "save_strategy": "no", **args},
        )
        counter = dist.all_reduce = Counter()
        whole, begun = ParallelEngine._micro_batch, []

        def counted(*arguments: Any) -> float:
            before = counter.count
            loss = whole(*arguments)
            begun.append(counter.count - before)
            return loss

        ParallelEngine._micro_batch = counted
        trainer.train()
        return str(records(trainer.state.log_history)), weights(trainer.model), sum(begun)

    for one, other in zip(run(train, 2, True), run(train, 2, False), strict=True):
        assert one[0] == other[0]
        assert_same_weights(one[1], other[1])
        assert one[2] > 10
        assert other[2] == 0


def test_the_loss_scaler_sees_the_same_sums() -> None:
    def steps() -> list[float]:
        with together():
            scales = []
            one, other, sums = make({}), make({}), GradientSums(dist.new_group(), CPU)
            optimizers = [torch.optim.SGD(parameters, lr=0.1) for parameters in (one, other)]
            scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=2) for _ in optimizers]
            for number in range(8):
                with sums.armed(one):
                    scalers[0].scale(1e3 * loss_of(one, ALL, number)).backward()
                scalers[1].scale(1e3 * loss_of(other, ALL, number)).backward()
                sums.finish(one, [])
                sum_gradients(other, sums.group, [], CPU)
                for scaler, optimizer in zip(scalers, optimizers, strict=True):
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad()
                scales.append([scaler.get_scale() for scaler in scalers])
            assert all(torch.equal(mine, plain) for mine, plain in zip(one, other, strict=True))
            return scales

    scales = run(steps, 2)[0]
    assert all(one == other for one, other in scales)
    assert len({one for one, _ in scales}) > 2, "no step was skipped"
