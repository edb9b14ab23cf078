"""Batch arithmetic: micro batch x accumulation x data-parallel size = global batch."""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.errors import Problem


@dataclass(frozen=True)
class Batch:
    """The three sizes, agreeing. ``derived_from`` names the keys that the missing one came from."""

    micro: int
    accumulation: int
    total: int


def resolve(micro: int | None, accumulation: int | None, total: int | None, ranks: int) -> Batch | Problem:
    """Derive what is missing (None) for ``ranks`` data-parallel processes.

    Args:
        micro: Sequences of one forward pass on one device.
        accumulation: Forward passes of one optimizer step.
        total: Sequences of one optimizer step on all devices.
        ranks: The data-parallel size.
    """
    if total is None:
        micro, accumulation = micro or 1, accumulation or 1
        return Batch(micro, accumulation, micro * accumulation * ranks)
    if micro is None:
        accumulation = accumulation or 1
        micro, rest = divmod(total, accumulation * ranks)
        if rest or not micro:
            product = f"gradient_accumulation_steps {accumulation} x data-parallel size {ranks}"
            return Problem(f"{total} is not a multiple of {product}", "train_batch_size", hint=_multiple(total, accumulation * ranks))
        return Batch(micro, accumulation, total)
    if accumulation is None:
        accumulation, rest = divmod(total, micro * ranks)
        if rest or not accumulation:
            product = f"micro_batch_size {micro} x data-parallel size {ranks}"
            hint = _multiple(total, micro * ranks) + _smaller(micro, total, ranks)
            return Problem(f"{total} is not a multiple of {product}", "train_batch_size", hint=hint)
        return Batch(micro, accumulation, total)
    if micro * accumulation * ranks != total:
        product = f"micro_batch_size {micro} x gradient_accumulation_steps {accumulation} x data-parallel size {ranks}"
        message = f"{total} is not {product} = {micro * accumulation * ranks}"
        return Problem(message, "train_batch_size", hint=_agreement(micro, accumulation, total))
    return Batch(micro, accumulation, total)


def _multiple(total: int, unit: int) -> str:
    lower, upper = total // unit * unit, (total // unit + 1) * unit
    return f"the nearest that are: {lower} and {upper}" if lower else f"the least that is: {upper}"


def _smaller(micro: int, total: int, ranks: int) -> str:
    """The micro batch that fits without another batch of the optimizer step, if there is one."""
    fitting = [size for size in range(1, micro) if total % (size * ranks) == 0]
    return f"; or micro_batch_size {fitting[-1]}" if fitting else ""


def _agreement(micro: int, accumulation: int, total: int) -> str:
    ranks, rest = divmod(total, micro * accumulation)
    size = "no data-parallel size" if rest or not ranks else f"data-parallel size {ranks}"
    return f"the three agree at {size}; leave out gradient_accumulation_steps to derive it"
