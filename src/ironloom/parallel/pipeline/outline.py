"""Cutting a model that is anywhere: on a device, or on none yet, where a decoder has no weights before it is spread.

What can be seen of such a decoder without numbers is seen on tensors without content. Whether its stages together are the model
takes numbers, but does not depend on the widths: a decoder of the same modules, as narrow as can be, is computed with in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ironloom.models.build import allocate
from ironloom.models.deferred import give_weights, is_waiting, narrow, start_of
from ironloom.models.init import Start, initialize
from ironloom.parallel.pipeline.split import check_stages, find_stages, plan_stages
from ironloom.parallel.pipeline.stage import StagePlan

#: Deviation of the narrow decoder's weights: wide enough that each of its modules counts.
_STD = 0.5


def plan_anywhere(
    model: nn.Module, inputs: Mapping[str, Any], num_stages: int, device: torch.device, split_spec: Mapping[str, str] | None = None
) -> list[StagePlan]:
    """Cut a model; see :func:`~ironloom.parallel.pipeline.split.plan_stages`.

    Args:
        model: The whole model, maybe without weights yet.
        inputs: A batch on the CPU: arguments of its forward.
        num_stages: How many stages to make.
        device: Where it will be run.
        split_spec: Module path -> ``beginning`` or ``end``; None or empty: stages of equal work.

    Raises:
        ConfigError: If the model cannot be cut so, naming where it can be.
    """
    start = start_of(model)
    if start is not None and is_waiting(model):
        return _outlined(start, inputs, num_stages, device, split_spec)
    give_weights(model, device)
    here = next(model.parameters()).device
    batch = {name: value.to(here) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    return plan_stages(model, batch, num_stages, split_spec)


def _outlined(
    start: Start, inputs: Mapping[str, Any], num_stages: int, device: torch.device, split_spec: Mapping[str, str] | None
) -> list[StagePlan]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        outline = allocate(start.config, device.type)
        batch = {name: mode.from_tensor(value).to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        plans = find_stages(outline, batch, num_stages, split_spec)
    small = allocate(narrow(start.config))
    initialize(small, start.seed, _STD)
    check_stages(small, inputs, plans)
    return plans
