"""Before the first step with packed rows: does a document see another one, in this very model, type and attention back end?

The tokens of every other document are replaced. Of those in between nothing may change: neither their logits nor, where a process has
whole weights, the gradient of these logits at the replaced tokens, which is exactly zero where no way leads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ironloom.device import generator_states, restore_generators
from ironloom.errors import ConfigError
from ironloom.models.decoder import Decoder
from ironloom.models.generate import evaluating
from ironloom.parallel.team import Team
from ironloom.trainer.engine import Batch, NativeEngine
from ironloom.trainer.packed import documents_of, has_documents, name_of, unheeded
from ironloom.trainer.team_engine import TeamEngine
from ironloom.weights.sharded import is_sharded

#: Rounding that other tokens may cause (experts that are given other rows), in units in the last place of the largest logit.
_ROUNDING = 4


@dataclass(frozen=True)
class Leak:
    """What a document was seen to know of another.

    Attributes:
        logits: Largest difference of logits that ought to be none.
        largest: Largest logit.
        gradient: Largest gradient that ought to be zero; None: not looked at.
    """

    logits: float
    largest: float
    gradient: float | None


def probe(engine: NativeEngine, window: Sequence[Batch | None], team: Team, warn: Callable[[str], None]) -> None:
    """Refuse to train where documents of a row see each other. Weights, modes, buffers and random numbers stay as they are.

    Every process of a team calls this, with or without packed rows of its own.

    Args:
        engine: Ready to train.
        window: Micro-batches, some of which, maybe in another process, have rows of several documents.
        team: The processes.
        warn: Tells the user what cannot be probed.

    Raises:
        ConfigError: Naming model and back end, the largest difference, and what to set.
    """
    engine.is_probed = True
    if not engine.shows_logits:
        warn("rows hold several documents, and this trainer's steps are its own: whether documents see each other was not looked at")
        return
    batch = next((batch for batch in window if batch is not None and has_documents(batch)), next(iter(window), None))
    problem = None if batch is None else unheeded(engine.model, batch)
    _agree(problem, team)
    if not team.any([batch is not None and documents_of(batch) is not None])[0]:
        return  # only positions start again: that is wanted
    # A compiler would compile anew for another size.
    row = batch if batch is None or engine.is_compiled else _one_row(batch)
    with evaluating(engine.model), _undisturbed(engine.model):
        leak = _measured(engine, row)
    if leak is None and batch is not None and documents_of(batch) is not None:
        warn(f"rows hold several documents, and {name_of(engine.model)} returns no logits: whether they see each other is not known")
    _agree(None if leak is None else _judged(leak, engine), team)


def _agree(problem: str | None, team: Team) -> None:
    """What one process found ends the run in all."""
    if team.any([problem is not None])[0]:
        raise ConfigError(problem or "documents that share a row are not kept apart, as another process has found")


def _one_row(batch: Batch) -> Batch:
    """A batch of one sample, with several documents if there is such a one."""
    documents = documents_of(batch)
    row = 0 if documents is None else int(documents[:, -1].argmax())
    size = len(batch["input_ids"])
    return {
        name: value[row : row + 1] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
        for name, value in batch.items()
    }


def _measured(engine: NativeEngine, batch: Batch | None) -> Leak | None:
    """What leaks in a batch; None without logits, or without several documents in this process, which computes along."""
    documents = None if batch is None else documents_of(batch)
    replaced = None if documents is None else (documents % 2 == 0)
    other = batch if batch is None or replaced is None else {**batch, "input_ids": _replaced(batch["input_ids"], replaced)}
    gradient = None
    if batch is not None and replaced is not None and _is_whole(engine) and not engine.is_compiled:
        gradient = _gradient(engine, batch, replaced)
    # Engines of several processes take None for a batch: others are waiting.
    before, after = (engine.evaluate(given, keep_logits=True).logits for given in (batch, other))  # type: ignore[arg-type]
    if replaced is None or before is None or after is None or before.shape[:2] != replaced.shape:
        return None
    kept = ~replaced.to(before.device)
    difference = (before[kept].float() - after[kept].float()).abs().max().item()
    return Leak(difference, before.float().abs().max().item(), gradient)


def _is_whole(engine: NativeEngine) -> bool:
    """Whether a process can compute the model, and its gradients, without the others."""
    is_shared = isinstance(engine, TeamEngine) and engine.team.place.world > engine.team.place.degrees.dp_replicate
    return not is_shared and not any(map(is_sharded, engine.model.parameters()))


def _replaced(ids: Tensor, replaced: Tensor) -> Tensor:
    """Other tokens at some places: any that the batch has, so that the model knows them."""
    first = ids.flatten()[0]
    others = ids[ids != first]
    other = others[0] if len(others) else (first == 0).to(ids.dtype)
    return torch.where(replaced, torch.where(ids == first, other, first), ids)


def _gradient(engine: NativeEngine, batch: Batch, replaced: Tensor) -> float | None:
    """Largest gradient of the logits of kept tokens at the embeddings of replaced ones; None if there is no way to see it."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        given = args[0] if args else None
        is_tokens = isinstance(given, Tensor) and given.shape == replaced.shape and torch.equal(given.cpu(), batch["input_ids"].cpu())
        if seen or not is_tokens:
            return None
        seen.append(output.detach().requires_grad_())
        return seen[0]

    hooks = [module.register_forward_hook(note) for module in engine.model.modules() if isinstance(module, nn.Embedding)]
    try:
        with torch.enable_grad():
            logits = engine.logits(batch)
            if not seen or logits is None or not logits.requires_grad or logits.shape[:2] != replaced.shape:
                return None
            kept = logits[~replaced.to(logits.device)].float()
            # Not their sum, which a norm before the last matrix may hold at zero.
            total = (kept * torch.arange(kept.shape[-1], device=kept.device).sin()).sum()
            (gradient,) = torch.autograd.grad(total, seen, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return None if gradient is None else gradient[replaced.to(gradient.device)].abs().max().item()


def _judged(leak: Leak, engine: NativeEngine) -> str | None:
    """Why training would be wrong; None if it is right."""
    limit = _ROUNDING * _epsilon(engine) * leak.largest
    if (leak.logits <= limit and not leak.gradient) or not math.isfinite(leak.largest):  # training names numbers that are none
        return None
    seen = f"logits change by up to {leak.logits:.1e} (the largest is {leak.largest:.1e})"
    if leak.logits <= limit:
        seen = f"logits have a gradient of up to {leak.gradient:.1e} at these tokens"
    return (
        f"documents that share a row see each other in {name_of(engine.model)} with {_back_end(engine)}: when the tokens of a document "
        f"are replaced, other documents' {seen}. Nothing was trained. Use a back end that keeps them apart (attn_implementation: sdpa), "
        "do not pack (leave data.packing out), or let documents see each other (model.reset_attention_mask and model.reset_position_ids: "
        "false)"
    )


def _epsilon(engine: NativeEngine) -> float:
    """Relative rounding of the coarsest type that the model computes in."""
    types = {parameter.dtype for parameter in engine.model.parameters() if parameter.dtype.is_floating_point}
    return max(torch.finfo(dtype).eps for dtype in {*types, engine.autocast_dtype or torch.float32})


def _back_end(engine: NativeEngine) -> str:
    name = getattr(getattr(engine.model, "config", None), "_attn_implementation", None)
    if isinstance(engine.model, Decoder):
        name = "math" if engine.math_attention else "flex" if engine.flex_attention else "PyTorch's"
    compiled = ", compiled" if engine.is_compiled else ""
    return f"{f'{name} attention' if name else 'its own attention'} in {str(engine.autocast_dtype or torch.float32)[6:]}{compiled}"


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Within it, random numbers may be drawn and buffers written; afterwards they are as before."""
    states = generator_states()
    device = torch.get_device_module().get_rng_state() if torch.accelerator.is_available() else None
    buffers: Mapping[str, Tensor] = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    try:
        yield
    finally:
        restore_generators(states)
        if device is not None:
            torch.get_device_module().set_rng_state(device)
        with torch.no_grad():
            now = dict(model.named_buffers())
            for name, before in buffers.items():
                if name in now and now[name].shape == before.shape and not torch.equal(now[name], before):
                    now[name].copy_(before)
