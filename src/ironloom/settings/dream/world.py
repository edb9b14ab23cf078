"""How many processes or devices there are, as far as that can be known without torch."""

from __future__ import annotations

import os
import pathlib
import re


def world_size() -> int | None:
    """Number of processes that the launcher started; None outside of one."""
    text = os.environ.get("WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else None


def local_world_size() -> int | None:
    """Number of processes on this machine; without that number all are taken to be here. None outside of a launcher."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else world_size()


def nearest_divisors(size: int, whole: int) -> str:
    """The numbers next to ``size`` that divide ``whole``, as words: ``2 or 4``."""
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    below = [number for number in divisors if number <= size][-1:]
    above = [number for number in divisors if number > size][:1]
    return " or ".join(map(str, below if below == [size] else below + above))


def fitting(size: int, others: int, world: int, is_open: bool = True) -> str:
    """What would make ``size`` times ``others`` fit the processes that there are: another size, or another number of processes.

    Args:
        size: What does not fit.
        others: Product of the other sizes.
        world: Processes.
        is_open: Whether another size takes what these leave.
    """
    known = size * others
    numbers = [number for number in (world // known * known, (world // known + 1) * known) if number] if is_open else [known]
    started = f"start {' or '.join(map(str, numbers))} process{'es' * (numbers[-1] > 1)}"
    if world % others:
        return started
    return f"{nearest_divisors(size, world // others) if is_open else world // others} would fit; or {started}"


def visible_devices() -> int | None:
    """Number of NVIDIA GPUs that a run on this machine would see; None where none can be counted."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")]) or None
    nodes = [entry for entry in pathlib.Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", entry.name)]
    return len(nodes) or None
