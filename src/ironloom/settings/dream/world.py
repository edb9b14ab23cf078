"""How many processes or devices there are, as far as that can be known without torch."""

from __future__ import annotations

import os
import pathlib
import re


def world_size() -> int | None:
    """Number of processes that the launcher started; None outside of one."""
    text = os.environ.get("WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else None


def visible_devices() -> int | None:
    """Number of NVIDIA GPUs that a run on this machine would see; None where none can be counted."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")]) or None
    nodes = [entry for entry in pathlib.Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", entry.name)]
    return len(nodes) or None
